//! Writer of initramfs archives (cpio, "newc").

/// The kernel looks for the next archive of an initrd at a multiple of four; tools pad to this.
pub const BLOCK: usize = 512;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const TRAILER: &str = "TRAILER!!!";

/// An archive being written. Paths are relative, without a leading slash; directories come before their content.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str, permissions: u32) -> &mut Self {
        self.entry(path, DIRECTORY | permissions, &[])
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> &mut Self {
        self.entry(path, FILE | permissions, content)
    }

    /// The whole archive, padded to [`BLOCK`].
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, &[]);
        self.pad(BLOCK);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> &mut Self {
        self.entries += 1;
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        // inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name with its NUL, checksum
        let size = u32::try_from(content.len()).expect("a file of an initrd is smaller than 4 GiB");
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, path.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(content);
        self.pad(4);
        self
    }

    fn pad(&mut self, alignment: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_padded_and_aligned() {
        let mut cpio = Cpio::new();
        cpio.directory("bin", 0o755).file("bin/a", 0o755, b"12345");
        let bytes = cpio.finish();
        assert_eq!(bytes.len() % BLOCK, 0);
        assert!(bytes.starts_with(b"070701"));
        let at = bytes.windows(5).position(|w| w == b"12345").unwrap();
        assert_eq!(at % 4, 0);
        assert!(bytes.windows(TRAILER.len()).any(|w| w == TRAILER.as_bytes()));
    }
}
