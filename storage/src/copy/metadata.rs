//! Everything of a file but its content and its names.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// Longest list of names and longest value of extended attributes (`XATTR_LIST_MAX` and `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 << 10;

/// Sets owner, mode, extended attributes and times of an open file or directory to those of another.
///
/// Order matters: a change of owner clears set-id bits and file capabilities, a change of mode alters ACLs.
pub(super) fn of_open(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let mut list = vec![0; XATTR_MAX];
    let length = supported(fs::flistxattr(from, list.as_mut_slice()))?;
    for name in split(&list[..length]) {
        let mut value = vec![0; XATTR_MAX];
        let length = match fs::fgetxattr(from, &*name, value.as_mut_slice()) {
            Err(Errno::NODATA) => continue,
            length => length?,
        };
        keep(fs::fsetxattr(to, &*name, &value[..length], XattrFlags::empty()))?;
    }
    Ok(fs::futimens(to, &times(stat))?)
}

/// The same for an entry that is not opened: a link or a special file.
pub(super) fn of_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let (source, target) = (place(from, name)?, place(to, name)?);
    if !FileType::from_raw_mode(stat.st_mode).is_symlink() {
        // What was just made is no link, and nobody else can reach it.
        fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    let mut list = vec![0; XATTR_MAX];
    let length = supported(fs::llistxattr(&*source, list.as_mut_slice()))?;
    for name in split(&list[..length]) {
        let mut value = vec![0; XATTR_MAX];
        let length = match fs::lgetxattr(&*source, &*name, value.as_mut_slice()) {
            Err(Errno::NODATA) => continue,
            length => length?,
        };
        keep(fs::lsetxattr(&*target, &*name, &value[..length], XattrFlags::empty()))?;
    }
    Ok(fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Attributes of an unopened entry are reached by path only. The part that leads to the directory is a descriptor of
/// ours; what follows is not followed further.
fn place(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).map_err(io::Error::other)
}

fn split(list: &[u8]) -> impl Iterator<Item = CString> + '_ {
    list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).filter_map(|name| CString::new(name).ok())
}

/// A file system without extended attributes has none to copy.
fn supported(length: Result<usize, Errno>) -> io::Result<usize> {
    match length {
        Err(Errno::OPNOTSUPP) => Ok(0),
        length => Ok(length?),
    }
}

/// A file system that cannot keep an attribute, or a policy that labels files itself, is no reason to fail.
fn keep(set: Result<(), Errno>) -> io::Result<()> {
    match set {
        Err(Errno::OPNOTSUPP) => Ok(()),
        set => Ok(set?),
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
