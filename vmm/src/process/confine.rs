//! What the process gives up before it looks at anything of the guest. Filters of system calls for each kind of
//! thread ([`crate::seccomp`]) come on top of this.
//!
//! Two layers, in this order: [`begin`] for both processes of a machine, [`enter`] for the one that holds the guest.

use std::io;
use std::path::Path;

use berth_devices::seccomp::settle_allocator;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, mount_remount, move_mount,
    open_tree, unmount,
};
use rustix::process::{
    Gid, Resource, Rlimit, Signal, Uid, getrlimit, pivot_root, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, set_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use super::sys::{close_from, leave_namespaces};
use berth_supervisor::handshake::HANDSHAKE_FD;

/// Descriptors the process may have: those of the sockets' connections (512), of the control socket's (64), and eventfds of
/// queues and vectors of all devices that fit a machine.
const DESCRIPTORS: u64 = 8192;

/// Closes stray descriptors and rules out new privileges. Call before any thread is begun.
pub fn begin() -> io::Result<()> {
    close_from(HANDSHAKE_FD as u32 + 1)?;
    settle_allocator()?;
    set_no_new_privs(true)?;
    // A core file would hold what devices copied out of the guest.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// Gives up all capabilities but that to signal the process of the guest, which is another user's.
pub fn keep_only_kill() -> io::Result<()> {
    let kill = CapabilitySet::KILL;
    set_capabilities(None, CapabilitySets { effective: kill, permitted: kill, inheritable: CapabilitySet::empty() })?;
    Ok(())
}

/// Leaves the host behind: afterwards the calling process, which has a single thread and is the first of its process
/// namespace, is user and group `id` and nothing else, sees no process, no network and no file but the directory
/// `visible` (as [`VISIBLE`]), and ends with the process that made it.
pub fn enter(id: u32, visible: Option<&Path>) -> io::Result<()> {
    use UnshareFlags as New;
    // The usual one looks for files, to tell the names of functions.
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    leave_namespaces(New::NEWNS | New::NEWNET | New::NEWIPC | New::NEWUTS | New::NEWCGROUP)?;
    enter_root(visible)?;
    let hard = getrlimit(Resource::Nofile).maximum;
    let descriptors = Some(hard.map_or(DESCRIPTORS, |hard| hard.min(DESCRIPTORS)));
    setrlimit(Resource::Nofile, Rlimit { current: descriptors, maximum: descriptors })?;
    set_thread_groups(&[])?;
    let (user, group) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)?;
    let nothing = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing })?;
    // Last, for a change of user forgets it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Where the visible directory is in the private root.
pub const VISIBLE: &str = "vsock";

/// Makes an empty read-only file system the root, with nothing but `visible` in it.
fn enter_root(visible: Option<&Path>) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = visible.map(|path| open_tree(CWD, path, clone)).transpose()?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("size", "64k"), ("nr_inodes", "4"), ("mode", "0755")] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    // Over the current directory: the one place that is known to be there.
    move_mount(&root, "", CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(&root)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    if let Some(tree) = tree {
        rustix::fs::mkdir(VISIBLE, Mode::from_raw_mode(0o755))?;
        move_mount(&tree, "", CWD, VISIBLE, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        mount_remount(VISIBLE, flags | MountFlags::BIND, "")?;
    }
    // New and old root are one directory: the old one lies on top then (pivot_root(2)).
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    mount_remount("/", flags | MountFlags::BIND, "")?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::process::fchdir(root)?;
    Ok(())
}
