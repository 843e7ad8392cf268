//! What is in files.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{self, SeekFrom};
use rustix::io::Errno;

use super::Copy;

/// Bytes copied at once: enough to be fast, few enough to notice soon that nobody wants the copy any more.
const CHUNK: u64 = 16 << 20;
/// Bytes of the buffer where the kernel cannot copy by itself.
const BUFFER: usize = 1 << 20;

impl Copy<'_> {
    /// Copies the content of a file of `size` bytes, leaving its holes holes.
    pub(super) fn content(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> io::Result<()> {
        if size == 0 {
            return Ok(());
        }
        if self.reflinks {
            match fs::ioctl_ficlone(to, from) {
                Ok(()) => return self.done(size),
                // Not this file system, not between these two, or not this file.
                Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::INVAL | Errno::PERM) => {
                    self.reflinks = false;
                }
                Err(error) => return Err(error.into()),
            }
        }
        fs::ftruncate(to, size)?;
        let mut at = 0;
        while at < size {
            let start = match fs::seek(from, SeekFrom::Data(at)) {
                // The rest is a hole.
                Err(Errno::NXIO) => break,
                // A file system that knows no holes.
                Err(Errno::INVAL) => at,
                start => start?,
            };
            let end = match fs::seek(from, SeekFrom::Hole(start)) {
                Err(Errno::INVAL | Errno::NXIO) => size,
                end => end?.min(size),
            };
            self.range(from, to, start, end)?;
            at = end.max(start + 1);
        }
        Ok(())
    }

    fn range(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<()> {
        let (mut at_from, mut at_to) = (start, start);
        while at_from < end {
            self.go_on()?;
            let wanted = usize::try_from((end - at_from).min(CHUNK)).unwrap_or(BUFFER);
            match fs::copy_file_range(from, Some(&mut at_from), to, Some(&mut at_to), wanted) {
                // It was cut short meanwhile.
                Ok(0) => break,
                Ok(count) => self.done(count as u64)?,
                Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {
                    return self.by_hand(from, to, at_from, end);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn by_hand(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<()> {
        let (from, to) = (File::from(from.try_clone_to_owned()?), File::from(to.try_clone_to_owned()?));
        let mut buffer = vec![0; BUFFER];
        let mut at = start;
        while at < end {
            self.go_on()?;
            let wanted = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            let count = from.read_at(&mut buffer[..wanted], at)?;
            if count == 0 {
                break;
            }
            to.write_all_at(&buffer[..count], at)?;
            at += count as u64;
            self.done(count as u64)?;
        }
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "ends the arms that it stands in")]
    fn done(&mut self, count: u64) -> io::Result<()> {
        let before = self.bytes / CHUNK;
        self.bytes = self.bytes.saturating_add(count);
        if self.bytes / CHUNK != before {
            (self.progress)(self.bytes);
        }
        Ok(())
    }
}
