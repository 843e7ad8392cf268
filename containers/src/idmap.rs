//! User namespaces and idmapped mounts.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::Pid;

use crate::error::{Context, Error, Result};
use crate::spec::IdMap;
use crate::{process, sys};

/// Writes both maps of process `pid`, which is in a new user namespace.
pub(crate) fn write_maps(pid: Pid, map: IdMap) -> Result<()> {
    let line = format!("0 {} {}\n", map.base, map.size);
    for kind in ["uid_map", "gid_map"] {
        let path = format!("/proc/{}/{kind}", pid.as_raw_nonzero());
        fs::write(&path, &line).with_context(|| format!("write the id map {}+{} to {path}", map.base, map.size))?;
    }
    Ok(())
}

/// The user namespace of process `pid`.
pub(crate) fn user_namespace(pid: Pid) -> Result<OwnedFd> {
    let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
    Ok(File::open(&path).with_context(|| format!("open {path}"))?.into())
}

/// A user namespace with `map` that no process lives in.
pub(crate) fn bare_namespace(map: IdMap) -> Result<OwnedFd> {
    // SAFETY: the helpers that call this have a single thread.
    let child = unsafe {
        sys::fork(libc::CLONE_NEWUSER, None, || {
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            loop {
                rustix::event::pause();
            }
        })
    }
    .context("make a user namespace")?;
    let result = write_maps(child.pid, map).and_then(|()| user_namespace(child.pid));
    process::kill(child.pidfd.as_fd());
    process::wait(child.pidfd.as_fd()).context("wait for the maker of a user namespace")?;
    result
}

/// Makes the detached mount `tree` of `source` show ids through `userns`.
pub(crate) fn apply(tree: BorrowedFd<'_>, userns: BorrowedFd<'_>, source: &Path, recursive: bool) -> Result<()> {
    match sys::mount_setattr(tree, libc::MOUNT_ATTR_IDMAP, Some(userns), recursive) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            let kind = file_system(source).unwrap_or_else(|_| "unknown".into());
            Err(Error::Unsupported(format!(
                "{} lies on a file system of type {kind}, which this kernel cannot map ids on; use a storage pool on \
                 ext4, xfs or btrfs",
                source.display()
            )))
        }
        other => other.with_context(|| format!("map the ids of {}", source.display())),
    }
}

/// Type of the file system `path` lies on, from the mount table.
fn file_system(path: &Path) -> io::Result<String> {
    let path = path.canonicalize()?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let best = table
        .lines()
        .filter_map(|line| {
            let (mount, rest) = line.split_once(" - ")?;
            Some((mount.split(' ').nth(4)?, rest.split(' ').next()?))
        })
        .filter(|(at, _)| path.starts_with(at))
        // The last of equal length lies on top.
        .max_by_key(|(at, _)| at.len());
    Ok(best.map_or("unknown", |(_, kind)| kind).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_of_a_path_is_told() {
        assert_eq!(file_system(Path::new("/proc/self/status")).unwrap(), "proc");
    }
}
