//! FAT file systems: the EFI system partition, and what the Boot Loader Specification puts beside it.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::disk::Window;
use super::find::Files;

/// Most names that are read of a directory.
const NAMES_MAX: usize = 10_000;

/// A part of the disk as a stream that cannot be written.
struct Stream {
    window: Window,
    at: u64,
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.window.length().saturating_sub(self.at)).unwrap_or(usize::MAX);
        let count = into.len().min(left);
        self.window.read_at(self.at, &mut into[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Stream {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::Current(by) => (self.at, by),
            SeekFrom::End(by) => (self.window.length(), by),
        };
        self.at = from.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// A FAT file system that is only read.
pub struct Fat(fatfs::FileSystem<Stream>);

impl Fat {
    /// `None` if there is none.
    pub fn load(window: Window) -> Option<Self> {
        // Reading must not mark a file as accessed.
        let options = fatfs::FsOptions::new().update_accessed_date(false);
        fatfs::FileSystem::new(Stream { window, at: 0 }, options).ok().map(Self)
    }
}

impl Files for Fat {
    fn read(&self, path: &str, cap: u64) -> Option<Vec<u8>> {
        let file = self.0.root_dir().open_file(path.trim_start_matches('/')).ok()?;
        let mut content = Vec::new();
        file.take(cap + 1).read_to_end(&mut content).ok()?;
        (content.len() as u64 <= cap).then_some(content)
    }

    fn is_file(&self, path: &str) -> bool {
        self.0.root_dir().open_file(path.trim_start_matches('/')).is_ok()
    }

    fn list(&self, directory: &str) -> Vec<String> {
        let root = self.0.root_dir();
        let directory = directory.trim_matches('/');
        let opened = if directory.is_empty() { Ok(root) } else { root.open_dir(directory) };
        let Ok(opened) = opened else { return Vec::new() };
        let names = opened.iter().take(NAMES_MAX).filter_map(|entry| Some(entry.ok()?.file_name()));
        names.filter(|name| name != "." && name != "..").collect()
    }
}
