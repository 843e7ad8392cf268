//! The host's half: what is wanted of the host, opened, marked and locked.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Uid};
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use crate::error::{Context, Error, Result};
use crate::mounts::{Tree, inside::clone, stage};
use crate::spec::{Device, IdMap, Mount, Node, NodeKind, NodeSource, Propagation};
use crate::sys;

/// What is wanted, on the stage. The calling process is in a mount namespace of its own.
pub(super) struct Staged<'a> {
    devices: Vec<(&'a str, &'a Device)>,
}

/// What can be attached inside.
pub(super) struct Prepared<'a> {
    pub name: &'a str,
    pub device: &'a Device,
    pub tree: OwnedFd,
}

/// What a device is made of.
enum Source {
    Tree(Tree),
    Numbers(u64),
}

/// Opens the devices and lays them out on a stage. What is not there and not required is left out.
pub(super) fn prepare<'a>(
    devices: &'a BTreeMap<String, Device>,
    userns: BorrowedFd<'_>,
    idmap: IdMap,
) -> Result<Staged<'a>> {
    let mut found = Vec::new();
    for (name, device) in devices {
        let opened = match device {
            Device::Mount(mount) => open_mount(mount, userns),
            Device::Node(node) => numbers(node).map(|numbers| numbers.map(Source::Numbers)),
        };
        if let Some(source) = opened.map_err(|e| about(name, &e))? {
            found.push((&**name, device, source));
        }
    }
    // The target of one may lie in another.
    found.sort_by(|(_, a, _), (_, b, _)| a.target().cmp(b.target()));
    // No program is to be run from it, but device nodes are to work.
    let directory = stage::directory(MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    sys::unshare(libc::CLONE_NEWNS).context("make a mount namespace")?;
    stage::set_up(&directory, Path::new("/"))?;
    for (index, (name, device, source)) in found.iter().enumerate() {
        let place = index.to_string();
        let laid = match (source, device) {
            (Source::Tree(tree), _) => tree.attach(&directory, &place),
            (Source::Numbers(numbers), Device::Node(node)) => make_node(&directory, &place, node, *numbers, idmap),
            (Source::Numbers(_), Device::Mount(_)) => unreachable!("a mount has no numbers"),
        };
        laid.map_err(|e| about(name, &e))?;
    }
    Ok(Staged { devices: found.into_iter().map(|(name, device, _)| (name, device)).collect() })
}

impl<'a> Staged<'a> {
    /// Takes everything through a copy of the mount namespace, which belongs to the user namespace that the calling
    /// process has entered meanwhile: the kernel locks the flags.
    pub(super) fn lock(self) -> Result<Vec<Prepared<'a>>> {
        sys::unshare(libc::CLONE_NEWNS).context("make a mount namespace")?;
        let take = |(index, (name, device)): (usize, (&'a str, &'a Device))| {
            let tree = clone(index.to_string()).with_context(|| format!("take device \"{name}\""))?;
            if matches!(device, Device::Mount(Mount { propagation: Propagation::Unbindable, .. })) {
                sys::mount_propagation(tree.as_fd(), libc::MS_UNBINDABLE, true)
                    .with_context(|| format!("make device \"{name}\" unbindable"))?;
            }
            Ok(Prepared { name, device, tree })
        };
        self.devices.into_iter().enumerate().map(take).collect()
    }
}

fn about(name: &str, error: &Error) -> Error {
    Error::Init(format!("device \"{name}\": {error}"))
}

fn open_mount(mount: &Mount, userns: BorrowedFd<'_>) -> Result<Option<Source>> {
    // Whoever configures a container is the host's root; a link of theirs is as good as what it names.
    let source = match mount.source.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !mount.required => return Ok(None),
        other => other.with_context(|| format!("find the source {}", mount.source.display()))?,
    };
    let tree = match Tree::open(&source, mount.recursive) {
        Err(e) if e.kind() == io::ErrorKind::NotFound && !mount.required => return Ok(None),
        other => other.with_context(|| format!("open the source {}", source.display()))?,
    };
    let readonly = if mount.readonly { libc::MOUNT_ATTR_RDONLY } else { 0 };
    tree.set(libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | readonly)?;
    tree.set_propagation(match mount.propagation {
        Propagation::Private | Propagation::Unbindable => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
    })?;
    if mount.shift {
        tree.map_ids(userns)?;
    }
    Ok(Some(Source::Tree(tree)))
}

/// The numbers of a device; none if its node is missing and not required.
fn numbers(node: &Node) -> Result<Option<u64>> {
    let path = match &node.source {
        NodeSource::Numbers { major, minor } => return Ok(Some(rustix::fs::makedev(*major, *minor))),
        NodeSource::Path(path) => path,
    };
    let stat = match rustix::fs::stat(path) {
        Err(rustix::io::Errno::NOENT) if !node.required => return Ok(None),
        other => other.with_context(|| format!("find the device {}", path.display()))?,
    };
    let (wanted, word) = match node.kind {
        NodeKind::Char => (FileType::CharacterDevice, "character"),
        NodeKind::Block => (FileType::BlockDevice, "block"),
    };
    if FileType::from_raw_mode(stat.st_mode) == wanted {
        return Ok(Some(stat.st_rdev));
    }
    Err(Error::Unsupported(format!("{} is no {word} device of this host", path.display())))
}

/// A node alone, without the file system it lies on: a mount of its own over itself.
fn make_node(directory: &OwnedFd, place: &str, node: &Node, numbers: u64, idmap: IdMap) -> Result<()> {
    let kind = match node.kind {
        NodeKind::Char => FileType::CharacterDevice,
        NodeKind::Block => FileType::BlockDevice,
    };
    let owner = |id: u32| {
        idmap
            .host(id)
            .ok_or_else(|| Error::Spec(format!("its owner {id} is beyond the container's {} ids", idmap.size)))
    };
    let (uid, gid) = (owner(node.uid)?, owner(node.gid)?);
    rustix::fs::mknodat(directory, place, kind, Mode::from_raw_mode(node.mode), numbers)
        .context("make a device node")?;
    rustix::fs::chownat(
        directory,
        place,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .context("give a device node its owner")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(directory, place, flags).context("take a device node")?;
    move_mount(&tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context("mount a device node")
}
