//! Quotas: how much volumes hold and how much they may hold.
//!
//! Where the kernel has simple quotas (6.7), a volume has a quota group of its own, of level 1, with its subvolume in it:
//! subvolumes that an instance makes inside are put into the same group by the kernel, and the limit holds for all of
//! them together. What is shared with a snapshot or a copy counts where it was written first. Elsewhere the limit is that of the volume's subvolume, and
//! counts all that it refers to.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use super::subvolume::family;
use super::sys::{self, Group};

/// Quotas of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quotas {
    /// None are kept.
    Off,
    /// What a subvolume refers to is counted.
    Full,
    /// What was written first by a subvolume is counted.
    Simple,
}

/// The subvolume's own group.
fn own(id: u64) -> Group {
    Group { level: 0, number: id }
}

/// The group of a volume and all that is in it.
fn whole(id: u64) -> Group {
    Group { level: 1, number: id }
}

fn directory(fs: BorrowedFd<'_>) -> io::Result<PathBuf> {
    Ok(PathBuf::from(format!("/sys/fs/btrfs/{}/qgroups", sys::filesystem(fs)?)))
}

/// Which quotas there are.
pub(crate) fn of(fs: BorrowedFd<'_>) -> io::Result<Quotas> {
    let directory = directory(fs)?;
    match std::fs::read_to_string(directory.join("mode")) {
        Ok(mode) if mode.trim() == "squota" => Ok(Quotas::Simple),
        Ok(mode) if mode.trim() == "qgroup" => Ok(Quotas::Full),
        Ok(_) => Ok(Quotas::Off),
        // Older kernels have the directory only while quotas are on.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(if directory.exists() { Quotas::Full } else { Quotas::Off })
        }
        Err(error) => Err(error),
    }
}

/// Turns simple quotas on, unless the kernel has none.
pub(crate) fn begin(fs: BorrowedFd<'_>) -> io::Result<()> {
    match sys::enable_quotas(fs, true) {
        // Full ones cost much with many snapshots: they are turned on when a limit is asked for.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOTTY)) => Ok(()),
        done => done,
    }
}

/// Counts a volume, with all that is in it, as one.
pub(crate) fn track(fs: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    if of(fs)? != Quotas::Simple {
        return Ok(());
    }
    present(sys::set_group(fs, whole(id), true))?;
    for (member, _) in family(fs, id)? {
        present(sys::set_member(fs, own(member), whole(id), true))?;
    }
    Ok(())
}

/// Before a volume with all that is in it is removed.
pub(crate) fn forget(fs: BorrowedFd<'_>, id: u64, family: impl Iterator<Item = u64>) -> io::Result<()> {
    if of(fs)? != Quotas::Simple {
        return Ok(());
    }
    for member in family {
        absent(sys::set_member(fs, own(member), whole(id), false))?;
    }
    absent(sys::set_group(fs, whole(id), false))
}

/// Limits a volume, where quotas are on.
pub(crate) fn limit(fs: BorrowedFd<'_>, id: u64, bytes: Option<u64>) -> io::Result<()> {
    match of(fs)? {
        Quotas::Off => Ok(()),
        Quotas::Full => sys::set_limit(fs, own(id), bytes),
        Quotas::Simple => {
            // Quotas may have been turned on after it was made.
            track(fs, id)?;
            sys::set_limit(fs, whole(id), bytes)
        }
    }
}

/// Bytes that count for a volume, if they are counted.
pub(crate) fn usage(fs: BorrowedFd<'_>, id: u64) -> io::Result<Option<u64>> {
    let directory = directory(fs)?;
    let group = match of(fs)? {
        Quotas::Off => return Ok(None),
        Quotas::Full => own(id),
        Quotas::Simple => whole(id),
    };
    let file = directory.join(format!("{}_{}", group.level, group.number)).join("referenced");
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn present(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

fn absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        // ENOENT: no such group or member; EINVAL: neither group is known.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
        done => done,
    }
}
