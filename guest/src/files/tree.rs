//! Deletion, of whole trees too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags},
    io::Errno,
};

use super::{
    error::{Context, failure},
    paths::Root,
};
use crate::protocol::{ErrorKind, GuestError};

/// Directories open at once. What lies deeper is first moved up to the top of the tree, so that no depth exhausts
/// descriptors or stack.
const MAX_DEPTH: usize = 32;
/// How often a directory that somebody keeps filling is emptied before that is an error.
const MAX_PASSES: usize = 16;

pub(super) fn delete(root: &Root, path: &str, recursive: bool) -> Result<(), GuestError> {
    let Some((parent, name)) = root.parent(path)? else {
        return Err(failure(ErrorKind::Invalid, "the root directory cannot be deleted"));
    };
    match rustix::fs::unlinkat(&parent, &*name, AtFlags::empty()) {
        Err(Errno::ISDIR) if recursive => {
            let top = open_directory(parent.as_fd(), &name).context("open", path)?;
            empty(&top).context("empty", path)?;
            rustix::fs::unlinkat(&parent, &*name, AtFlags::REMOVEDIR).context("delete", path)
        }
        Err(Errno::ISDIR) => rustix::fs::unlinkat(&parent, &*name, AtFlags::REMOVEDIR).context("delete", path),
        other => other.context("delete", path),
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Empties the directory `top`.
fn empty(top: &OwnedFd) -> rustix::io::Result<()> {
    let mut passes = 0;
    loop {
        let pass = empty_once(top.as_fd(), top.as_fd(), 0)?;
        // What was moved up is new work, not somebody's interference.
        passes = if pass.moved { 0 } else { passes + 1 };
        if pass.entries == 0 {
            return Ok(());
        }
        if passes > MAX_PASSES {
            return Err(Errno::NOTEMPTY);
        }
    }
}

/// What one walk over a directory did.
#[derive(Default)]
struct Pass {
    /// Entries seen in the directory itself.
    entries: usize,
    /// A directory was moved to the top.
    moved: bool,
}

fn empty_once(top: BorrowedFd<'_>, directory: BorrowedFd<'_>, depth: usize) -> rustix::io::Result<Pass> {
    let mut pass = Pass::default();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        pass.entries += 1;
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR) => {}
            Err(e) => return Err(e),
        }
        // Often empty already, or a mount point with nothing to walk.
        match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY) => pass.moved |= empty_child(top, directory, name, depth)?,
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(pass)
}

/// Deletes a directory with content; tells whether something was moved to the top for a later pass.
fn empty_child(top: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &[u8], depth: usize) -> rustix::io::Result<bool> {
    if depth >= MAX_DEPTH {
        make_unique(|unique| {
            rustix::fs::renameat_with(directory, name, top, unique, rustix::fs::RenameFlags::NOREPLACE)
        })?;
        return Ok(true);
    }
    let child = open_directory(directory, name)?;
    let pass = empty_once(top, child.as_fd(), depth + 1)?;
    drop(child);
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        // Filled meanwhile: the next pass over the top sees it again.
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(pass.moved),
        Err(e) => Err(e),
    }
}

/// Calls `make` with fresh names until one does not exist yet; gives that name.
pub(super) fn make_unique(make: impl Fn(&[u8]) -> rustix::io::Result<()>) -> rustix::io::Result<Vec<u8>> {
    for _ in 0..64 {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!(".berth-{:016x}", u64::from_ne_bytes(random)).into_bytes();
        match make(&name) {
            Err(Errno::EXIST) => {}
            other => return other.map(|()| name),
        }
    }
    Err(Errno::EXIST)
}
