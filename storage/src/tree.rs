//! Trees of files that somebody else filled: removed and measured without following links, at any depth.
//! Subvolumes of btrfs go as a whole.
//!
//! What a container left behind may be deeper than paths are long or descriptors go. So all steps are relative to open
//! directories, at most [`DEPTH`] of them at a time.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use crate::btrfs::{subvolume, sys};

/// Directories that are open at a time.
const DEPTH: usize = 64;

/// How often a directory is gone through when entries turn up while it is being emptied.
const PASSES: usize = 8;

/// Removes everything in `dir`, which may be filled up meanwhile; the directory stays.
pub(crate) fn empty(dir: &Path) -> io::Result<()> {
    let top = open(CWD, dir)?;
    loop {
        let mut clean = true;
        for name in names(top.as_fd())? {
            clean = false;
            // What lies too deep is moved to the top, and met there in the next round.
            remove(top.as_fd(), top.as_fd(), &name?, DEPTH)?;
        }
        if clean {
            return Ok(());
        }
    }
}

/// Removes `name` of `parent`; what is more than `depth` directories below it is moved to `top` instead.
fn remove(top: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    if depth == 0 {
        let new = format!("deep-{}", Uuid::new_v4().simple());
        return fs::renameat(parent, name, top, new.as_str()).map_err(io::Error::from);
    }
    let dir = open(parent, name)?;
    if sys::is_subvolume(dir.as_fd())? {
        let id = sys::subvolume_of(dir.as_fd())?;
        // Else it would stay until it is closed.
        drop(dir);
        return subvolume::destroy(parent, id);
    }
    for _ in 0..PASSES {
        for name in names(dir.as_fd())? {
            remove(top, dir.as_fd(), &name?, depth - 1)?;
        }
        match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Some file systems skip entries when others are removed meanwhile.
            Err(Errno::NOTEMPTY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::NOTEMPTY.into())
}

/// Bytes that the tree at `path` occupies. A file with several names counts once; what lies deeper than a few hundred
/// directories does not count.
pub(crate) fn usage(path: &Path) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let top = fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut total = blocks(&top);
    if FileType::from_raw_mode(top.st_mode).is_dir() {
        total += usage_below(open(CWD, path)?.as_fd(), &mut seen, 4 * DEPTH)?;
    }
    Ok(total)
}

fn usage_below(dir: BorrowedFd<'_>, seen: &mut HashSet<(u64, u64)>, depth: usize) -> io::Result<u64> {
    let mut total: u64 = 0;
    for name in names(dir)? {
        let name = name?;
        let stat = match fs::statat(dir, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // A running instance may remove files under our eyes, here and below.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        if stat.st_nlink > 1
            && !FileType::from_raw_mode(stat.st_mode).is_dir()
            && !seen.insert((stat.st_dev, stat.st_ino))
        {
            continue;
        }
        total = total.saturating_add(blocks(&stat));
        if FileType::from_raw_mode(stat.st_mode).is_dir() && depth > 0 {
            match open(dir, &*name) {
                Ok(below) => total = total.saturating_add(usage_below(below.as_fd(), seen, depth - 1)?),
                Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(total)
}

fn blocks(stat: &fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512)
}

pub(crate) fn open(parent: BorrowedFd<'_>, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(parent, name, flags, Mode::empty())?)
}

/// The entries of a directory, read as they are needed.
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<impl Iterator<Item = io::Result<CString>>> {
    let entries = Dir::read_from(dir)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    let real = entries.filter(|name| !name.as_ref().is_ok_and(|name| [c".", c".."].contains(&name.as_c_str())));
    Ok(real.map(|name| name.map_err(io::Error::from)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn removes_without_following() {
        let dir = tempfile::tempdir().unwrap();
        let (trash, outside) = (dir.path().join("trash"), dir.path().join("outside"));
        std::fs::create_dir_all(trash.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("precious"), "x").unwrap();
        symlink(&outside, trash.join("a/b/link")).unwrap();
        symlink(&outside, trash.join("link")).unwrap();
        std::fs::write(trash.join("a/file"), "x").unwrap();
        empty(&trash).unwrap();
        assert_eq!(std::fs::read_dir(&trash).unwrap().count(), 0);
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn depth_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let mut at = open(CWD, dir.path()).unwrap();
        // Much deeper than a path can be long.
        for _ in 0..1000 {
            fs::mkdirat(&at, "deep", Mode::from_raw_mode(0o700)).unwrap();
            at = open(at.as_fd(), "deep").unwrap();
        }
        assert!(usage(dir.path()).unwrap() > 0);
        empty(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn hard_links_and_holes_count_once() {
        let dir = tempfile::tempdir().unwrap();
        let empty_size = usage(dir.path()).unwrap();
        std::fs::File::create(dir.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        std::fs::write(dir.path().join("a"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        let size = usage(dir.path()).unwrap() - empty_size;
        assert!((1 << 20..(1 << 20) + (1 << 16)).contains(&size), "{size}");
    }
}
