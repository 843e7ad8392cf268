//! Copying a tree of files that somebody else filled, with all that a file system keeps of it: owners, modes, times,
//! extended attributes (ACLs and capabilities among them), hard links, holes and special files.
//!
//! No link is followed and no path is resolved: all steps are relative to the one directory that is open on either
//! side, and the way back up is checked, so that a tree may be deeper than paths are long or descriptors go.

mod content;
mod metadata;

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use uuid::Uuid;

use crate::tree::{names, open};

/// Told now and then how many bytes have been copied so far.
pub type CopyProgress = dyn Fn(u64) + Send + Sync;

/// Ends a copy early when it is dropped: whoever waited for it has gone away.
#[derive(Debug, Default)]
pub(crate) struct CancelOnDrop(Arc<AtomicBool>);

impl CancelOnDrop {
    /// What the copy looks at.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How a copy is followed and ended.
pub(crate) struct Job {
    /// Set when nobody wants it any more.
    pub cancelled: Arc<AtomicBool>,
    /// Told how far it is.
    pub progress: Arc<CopyProgress>,
}

impl Job {
    /// Copies the volume at `from` into the prepared directory `to`; afterwards it is on disk.
    pub(crate) fn fill(&self, from: &Path, to: &Path) -> io::Result<u64> {
        let bytes = tree(from, to, &self.cancelled, &*self.progress)?;
        fs::syncfs(open(CWD, to)?)?;
        Ok(bytes)
    }
}

/// Copies everything in directory `from` into the empty directory `to`, which also gets the attributes of `from`.
/// Returns the number of bytes copied.
pub(crate) fn tree(from: &Path, to: &Path, cancelled: &AtomicBool, progress: &CopyProgress) -> io::Result<u64> {
    let (from, to) = (open(CWD, from)?, open(CWD, to)?);
    let stat = fs::fstat(&from)?;
    let links = format!(".berth-links-{}", Uuid::new_v4().simple());
    fs::mkdirat(&to, links.as_str(), Mode::from_raw_mode(0o700))?;
    let mut copy = Copy {
        links: open(to.as_fd(), links.as_str())?,
        linked: HashMap::new(),
        reflinks: true,
        bytes: 0,
        cancelled,
        progress,
    };
    copy.everything(from.try_clone()?, to.try_clone()?)?;
    for number in 0..copy.linked.len() {
        fs::unlinkat(&copy.links, number.to_string().as_str(), AtFlags::empty())?;
    }
    fs::unlinkat(&to, links.as_str(), AtFlags::REMOVEDIR)?;
    // Which has changed its time.
    metadata::of_open(from.as_fd(), to.as_fd(), &stat)?;
    Ok(copy.bytes)
}

/// A copy under way.
struct Copy<'a> {
    /// Directory with one more name of every file that has several, so that they can be found again at any depth.
    links: OwnedFd,
    /// Device and inode of such files, and their name in `links`.
    linked: HashMap<(u64, u64), usize>,
    /// Whether the file systems can share content.
    reflinks: bool,
    bytes: u64,
    cancelled: &'a AtomicBool,
    progress: &'a CopyProgress,
}

/// A directory that is being copied, from the outermost to the one at work.
struct Level {
    left: std::vec::IntoIter<CString>,
    /// Device and inode of both sides, to know them again on the way back.
    from: (u64, u64),
    to: (u64, u64),
}

impl Level {
    fn enter(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<Self> {
        let left = names(from)?.collect::<io::Result<Vec<_>>>()?.into_iter();
        Ok(Self { left, from: identity(&fs::fstat(from)?), to: identity(&fs::fstat(to)?) })
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl Copy<'_> {
    fn everything(&mut self, mut from: OwnedFd, mut to: OwnedFd) -> io::Result<()> {
        let mut levels = vec![Level::enter(from.as_fd(), to.as_fd())?];
        while let Some(level) = levels.last_mut() {
            self.go_on()?;
            let Some(name) = level.left.next() else {
                metadata::of_open(from.as_fd(), to.as_fd(), &fs::fstat(&from)?)?;
                levels.pop();
                if let Some(above) = levels.last() {
                    (from, to) = (up(&from, above.from)?, up(&to, above.to)?);
                }
                continue;
            };
            if let Some((below, made)) = self.entry(from.as_fd(), to.as_fd(), &name)? {
                levels.push(Level::enter(below.as_fd(), made.as_fd())?);
                (from, to) = (below, made);
            }
        }
        Ok(())
    }

    fn go_on(&self) -> io::Result<()> {
        match self.cancelled.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(io::Error::new(io::ErrorKind::Interrupted, "the copy was cancelled")),
        }
    }

    /// Copies one entry; a directory is only made, and both sides of it are returned.
    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
    ) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
        let stat = match fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Removed meanwhile, by the instance itself.
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind.is_dir() {
            let below = open(from, name)?;
            fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            return Ok(Some((below, open(to, name)?)));
        }
        let several = stat.st_nlink > 1;
        if several && self.link(to, name, &stat)? {
            return Ok(None);
        }
        match kind {
            FileType::RegularFile => self.file(from, to, name)?,
            FileType::Symlink => {
                let target = fs::readlinkat(from, name, Vec::new())?;
                fs::symlinkat(&*target, to, name)?;
                metadata::of_entry(from, to, name, &stat)?;
            }
            _ => {
                fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?;
                metadata::of_entry(from, to, name, &stat)?;
            }
        }
        if several {
            self.remember(to, name, &stat)?;
        }
        Ok(None)
    }

    /// Gives a file that was copied under another name before this name too; tells whether there is one.
    fn link(&self, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<bool> {
        let Some(number) = self.linked.get(&identity(stat)) else { return Ok(false) };
        match fs::linkat(&self.links, number.to_string().as_str(), to, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            // It has as many names as a file can have, one of them ours.
            Err(Errno::MLINK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn remember(&mut self, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
        let number = self.linked.len();
        if self.linked.contains_key(&identity(stat)) {
            return Ok(());
        }
        fs::linkat(to, name, &self.links, number.to_string().as_str(), AtFlags::empty())?;
        self.linked.insert(identity(stat), number);
        Ok(())
    }

    fn file(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        // Should something else be there by now, a device or a named pipe, opening it must not have effects.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = fs::openat(from, name, flags, Mode::empty())?;
        let stat = fs::fstat(&source)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(io::Error::other(format!("{name:?} was replaced while it was copied")));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?;
        self.content(source.as_fd(), target.as_fd(), u64::try_from(stat.st_size).unwrap_or(0))?;
        metadata::of_open(source.as_fd(), target.as_fd(), &stat)
    }
}

/// The directory above an open one, if it is still the one that was there on the way down.
fn up(below: &OwnedFd, expected: (u64, u64)) -> io::Result<OwnedFd> {
    let above = open(below.as_fd(), "..")?;
    if identity(&fs::fstat(&above)?) == expected {
        return Ok(above);
    }
    Err(io::Error::other("a directory was moved while it was copied: try again"))
}

#[cfg(test)]
mod tests;
