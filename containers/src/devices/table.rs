//! The mount table of a container, `/proc/PID/mountinfo` (proc(5)).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// More is not read; a container may have as many mounts as the host lets it (`fs.mount-max`, 100,000).
const TABLE_MAX: u64 = 64 * 1024 * 1024;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its number, which is used again once it is gone.
    pub mount: u64,
    /// `MAJOR:MINOR` of its file system.
    pub device: String,
    /// Where it is, from the container's root.
    pub path: String,
}

/// The table as it is now.
pub(super) fn read(mut file: &File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.take(TABLE_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn parse(table: &str) -> impl Iterator<Item = Entry> {
    table.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let mount = fields.next()?.parse().ok()?;
        let device = fields.nth(1)?.to_owned();
        let path = unescape(fields.nth(1)?)?;
        Some(Entry { mount, device, path })
    })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'\\'
            && let Some(digits) = tail.get(..3)
        {
            let digits = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 8).ok()?);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_paths_are_found() {
        let table =
            "28 1 0:26 / / rw - ext4 /dev/vda rw\n29 28 0:27 /x /a\\040b\\134c rw shared:1 - tmpfs t rw\nbroken\n";
        let entries: Vec<_> = parse(table).collect();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1], Entry { mount: 29, device: "0:27".into(), path: "/a b\\c".into() });
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(text in "[0-9 :/\\\\a\n]{0,80}") {
            let _ = parse(&text).count();
        }
    }
}
