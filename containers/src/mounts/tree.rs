//! Parts of the host's file system on their way into a container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::error::{Context, Result};
use crate::{idmap, sys};

/// A detached copy of a mount, in no namespace.
#[derive(Debug)]
pub(crate) struct Tree {
    source: PathBuf,
    detached: OwnedFd,
    is_dir: bool,
    recursive: bool,
}

impl Tree {
    /// Copies what is at `source`, whose last component must be no link, with what is mounted below if `recursive`.
    pub(crate) fn open(source: &Path, recursive: bool) -> io::Result<Self> {
        let mut flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let detached = open_tree(CWD, source, flags)?;
        let kind = FileType::from_raw_mode(rustix::fs::statat(&detached, "", AtFlags::EMPTY_PATH)?.st_mode);
        if kind == FileType::Symlink {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link"));
        }
        Ok(Self { source: source.to_owned(), detached, is_dir: kind == FileType::Directory, recursive })
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.is_dir
    }

    /// Sets attributes (`MOUNT_ATTR_*`).
    pub(crate) fn set(&self, attributes: u64) -> Result<()> {
        sys::mount_setattr(self.detached.as_fd(), attributes, None, self.recursive)
            .with_context(|| format!("set the mount flags of {}", self.source.display()))
    }

    /// Sets how mounts spread (`MS_PRIVATE` and its like).
    pub(crate) fn set_propagation(&self, propagation: u64) -> Result<()> {
        sys::mount_propagation(self.detached.as_fd(), propagation, self.recursive)
            .with_context(|| format!("set the propagation of {}", self.source.display()))
    }

    /// Shows ids through a user namespace.
    pub(crate) fn map_ids(&self, userns: BorrowedFd<'_>) -> Result<()> {
        idmap::apply(self.detached.as_fd(), userns, &self.source, self.recursive)
    }

    /// Attaches it at a new place `name` in `directory`.
    pub(crate) fn attach(&self, directory: &OwnedFd, name: &str) -> Result<()> {
        if self.is_dir {
            rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755)).context("fill the stage")?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o644)).context("fill the stage")?;
        }
        move_mount(&self.detached, "", directory, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .with_context(|| format!("mount {}", self.source.display()))
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.detached.as_fd()
    }
}
