//! Subvolumes together with those that are in them, which instances may make themselves.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::{quota, sys};
use crate::tree;

/// The subvolume and all in it, each before those in it, and whether there are any in it.
pub(crate) fn family(fs: BorrowedFd<'_>, id: u64) -> io::Result<Vec<(u64, bool)>> {
    let mut family = vec![(id, false)];
    let mut at = 0;
    while let Some((id, parent)) = family.get_mut(at) {
        let children = sys::children(fs, *id)?;
        *parent = !children.is_empty();
        family.extend(children.into_iter().map(|child| (child.id, false)));
        at += 1;
    }
    Ok(family)
}

/// Removes the subvolume and all in it. `fs` is a file of the same file system that lies outside.
pub(crate) fn destroy(fs: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let family = family(fs, id)?;
    for (id, _) in family.iter().filter(|(_, parent)| *parent) {
        let root = sys::open_directory(fs, *id, sys::ROOT_INODE)?;
        if sys::is_read_only(root.as_fd())? {
            sys::set_read_only(root.as_fd(), false)?;
        }
    }
    quota::forget(fs, id, family.iter().map(|(id, _)| *id))?;
    for (id, _) in family.iter().rev() {
        sys::destroy(fs, *id)?;
    }
    Ok(())
}

/// Makes `name` in `dir` a snapshot of the subvolume whose root is open at `source`, with snapshots of those in it where
/// they are. Nobody may change the source meanwhile. On an error there may be a part of it.
pub(crate) fn copy(source: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    sys::snapshot(dir, name, source)?;
    let made = sys::subvolume_of(tree::open(dir, name)?.as_fd())?;
    let mut left = vec![(sys::subvolume_of(source)?, made)];
    let mut read_only = Vec::new();
    while let Some((from, to)) = left.pop() {
        for child in sys::children(dir, from)? {
            let nested = sys::open_directory(dir, child.id, sys::ROOT_INODE)?;
            let place = sys::open_directory(dir, to, child.directory)?;
            let stat = fs::fstat(&place)?;
            // The snapshot has an empty directory in its place.
            match fs::unlinkat(&place, &*child.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            sys::snapshot(place.as_fd(), &child.name, nested.as_fd())?;
            fs::futimens(&place, &times(&stat))?;
            let copied = tree::open(place.as_fd(), &*child.name)?;
            let id = sys::subvolume_of(copied.as_fd())?;
            left.push((child.id, id));
            if sys::is_read_only(nested.as_fd())? {
                read_only.push(copied);
            }
        }
    }
    for copied in read_only {
        sys::set_read_only(copied.as_fd(), true)?;
    }
    Ok(())
}

fn times(stat: &fs::Stat) -> Timestamps {
    let time = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
