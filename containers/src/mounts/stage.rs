//! The host's half: trees of the host, with their ids mapped and their flags set.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree,
};

use super::{ROOT, stage_name};
use crate::error::{Context, Error, Result};
use crate::spec::ContainerSpec;
use crate::{idmap, sys};

/// While this lives, the calling process is in a private mount namespace and its working directory is the stage.
/// A child that is made meanwhile sees both. Dropping it leads back.
#[derive(Debug)]
pub(crate) struct Stage {
    original: OwnedFd,
    directory: OwnedFd,
    trees: Vec<Tree>,
}

#[derive(Debug)]
struct Tree {
    name: String,
    source: PathBuf,
    detached: OwnedFd,
    is_dir: bool,
    attributes: u64,
    recursive: bool,
    shift: bool,
}

impl Stage {
    /// Opens all sources and enters the private namespace.
    pub(crate) fn enter(spec: &ContainerSpec) -> Result<Self> {
        let trees = open_trees(spec)?;
        let directory = stage_directory()?;
        let original = File::open("/proc/self/ns/mnt").context("open the own mount namespace")?.into();
        sys::unshare(libc::CLONE_NEWNS).context("make a mount namespace")?;
        // From here on an early return must lead back, which the guard does.
        let stage = Self { original, directory, trees };
        // What the host unmounts is to vanish here too, and nothing of ours is to appear there.
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .context("make the mount namespace private")?;
        // Any directory will do; only this short-lived namespace sees it covered.
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&stage.directory, "", CWD, &spec.rootfs, flags)
            .with_context(|| format!("mount the stage over {}", spec.rootfs.display()))?;
        rustix::process::fchdir(&stage.directory).context("enter the stage")?;
        Ok(stage)
    }

    /// Maps the ids and attaches everything, to be called once the container's user namespace is there.
    pub(crate) fn attach(&self, userns: BorrowedFd<'_>) -> Result<()> {
        for tree in &self.trees {
            let source = tree.source.display();
            sys::mount_setattr(tree.detached.as_fd(), tree.attributes, None, tree.recursive)
                .with_context(|| format!("set the mount flags of {source}"))?;
            if tree.shift {
                idmap::apply(tree.detached.as_fd(), userns, &tree.source, tree.recursive)?;
            }
            if tree.is_dir {
                rustix::fs::mkdirat(&self.directory, &tree.name, Mode::from_raw_mode(0o755))
                    .context("fill the stage")?;
            } else {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&self.directory, &tree.name, flags, Mode::from_raw_mode(0o644))
                    .context("fill the stage")?;
            }
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&tree.detached, "", &self.directory, &tree.name, flags)
                .with_context(|| format!("mount {source}"))?;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Cannot fail for root with the namespace it came from; staying would only keep mounts alive.
        let _ = sys::setns(self.original.as_fd(), libc::CLONE_NEWNS);
    }
}

/// A small file system to attach the trees to, not yet mounted itself.
fn stage_directory() -> Result<OwnedFd> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in [("size", "64k"), ("nr_inodes", "1k"), ("mode", "755")] {
            fsconfig_set_string(&fs, key, value)?;
        }
        fsconfig_create(&fs)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)
    };
    make().context("make the stage's tmpfs")
}

fn open_trees(spec: &ContainerSpec) -> Result<Vec<Tree>> {
    let mut trees = vec![open_root(&spec.rootfs)?];
    for (index, mount) in spec.mounts.iter().enumerate() {
        let (detached, is_dir) = match clone_tree(&mount.source, mount.recursive) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !mount.required => continue,
            other => other.with_context(|| format!("open the mount's source {}", mount.source.display()))?,
        };
        let readonly = if mount.readonly { libc::MOUNT_ATTR_RDONLY } else { 0 };
        trees.push(Tree {
            name: stage_name(index),
            source: mount.source.clone(),
            detached,
            is_dir,
            attributes: libc::MOUNT_ATTR_NODEV | readonly,
            recursive: mount.recursive,
            shift: mount.shift,
        });
    }
    Ok(trees)
}

fn open_root(rootfs: &Path) -> Result<Tree> {
    let (detached, is_dir) =
        clone_tree(rootfs, false).with_context(|| format!("open the container's root {}", rootfs.display()))?;
    if !is_dir {
        return Err(Error::Spec(format!("the container's root {} is no directory", rootfs.display())));
    }
    Ok(Tree {
        name: ROOT.into(),
        source: rootfs.to_owned(),
        detached,
        is_dir,
        // Device nodes in an image would be the host's devices.
        attributes: libc::MOUNT_ATTR_NODEV,
        recursive: false,
        shift: true,
    })
}

/// A detached copy of the mount at `path`, whose last component must be no link; and whether it is a directory.
pub(crate) fn clone_tree(path: &Path, recursive: bool) -> io::Result<(OwnedFd, bool)> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, path, flags)?;
    let kind = FileType::from_raw_mode(rustix::fs::statat(&tree, "", AtFlags::EMPTY_PATH)?.st_mode);
    if kind == FileType::Symlink {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a symbolic link"));
    }
    Ok((tree, kind == FileType::Directory))
}
