//! The host's half: trees of the host, with their ids mapped and their flags set.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
};

use super::{ROOT, Tree};
use crate::error::{Context, Error, Result};
use crate::sys;

/// While this lives, the calling process is in a private mount namespace and its working directory is the stage.
/// A child that is made meanwhile sees both. Dropping it leads back.
#[derive(Debug)]
pub(crate) struct Stage {
    original: OwnedFd,
    directory: OwnedFd,
    root: Tree,
}

impl Stage {
    /// Opens the container's root and enters the private namespace.
    pub(crate) fn enter(rootfs: &Path) -> Result<Self> {
        let root = open_root(rootfs)?;
        let directory = directory(MountAttrFlags::MOUNT_ATTR_NODEV)?;
        let original = File::open("/proc/self/ns/mnt").context("open the own mount namespace")?.into();
        sys::unshare(libc::CLONE_NEWNS).context("make a mount namespace")?;
        // From here on an early return must lead back, which the guard does.
        let stage = Self { original, directory, root };
        // Any directory will do; only this short-lived namespace sees it covered.
        set_up(&stage.directory, rootfs)?;
        Ok(stage)
    }

    /// Maps the ids of the root and attaches it, to be called once the container's user namespace is there.
    pub(crate) fn attach(&self, userns: BorrowedFd<'_>) -> Result<()> {
        // Device nodes in an image would be the host's devices.
        self.root.set(libc::MOUNT_ATTR_NODEV)?;
        self.root.map_ids(userns)?;
        self.root.attach(&self.directory, ROOT)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Cannot fail for root with the namespace it came from; staying would only keep mounts alive.
        let _ = sys::setns(self.original.as_fd(), libc::CLONE_NEWNS);
    }
}

/// Makes the calling process's new mount namespace a stage: mounts `directory` over `at` and enters it.
pub(crate) fn set_up(directory: &OwnedFd, at: &Path) -> Result<()> {
    // What the host unmounts is to vanish here too, and nothing of ours is to appear there.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context("make the mount namespace private")?;
    move_mount(directory, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .with_context(|| format!("mount the stage over {}", at.display()))?;
    rustix::process::fchdir(directory).context("enter the stage")
}

/// A small file system to attach trees to, not yet mounted itself.
pub(crate) fn directory(flags: MountAttrFlags) -> Result<OwnedFd> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in [("size", "64k"), ("nr_inodes", "1k"), ("mode", "755")] {
            fsconfig_set_string(&fs, key, value)?;
        }
        fsconfig_create(&fs)?;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags | MountAttrFlags::MOUNT_ATTR_NOSUID)
    };
    make().context("make the stage's tmpfs")
}

/// The root of a container, which must be a directory.
pub(crate) fn open_root(rootfs: &Path) -> Result<Tree> {
    let root = Tree::open(rootfs, false).with_context(|| format!("open the container's root {}", rootfs.display()))?;
    if root.is_dir() {
        return Ok(root);
    }
    Err(Error::Spec(format!("the container's root {} is no directory", rootfs.display())))
}
