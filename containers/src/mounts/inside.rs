//! The container's half: its root with everything an init expects, made by its first process.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
};

use super::{ROOT, target};
use crate::error::{Context, Result};
use crate::pty;
use crate::spec::ContainerSpec;

/// Device nodes of the host that every container gets.
const NODES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Those it gets if the host has them.
const OPTIONAL_NODES: [&str; 2] = ["fuse", "net/tun"];
/// Parts of the host's sysfs and procfs that belong to the host's root and show as places nothing can be done
/// with. Without them an init tries to mount them itself, fails and calls the system degraded.
const IF_PRESENT: [&str; 8] = [
    "sys/fs/fuse/connections",
    "sys/fs/pstore",
    "sys/kernel/config",
    "sys/kernel/debug",
    "sys/kernel/security",
    "sys/kernel/tracing",
    "sys/firmware/efi/efivars",
    "proc/sys/fs/binfmt_misc",
];

const NO_SUID_DEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
const NO_SUID_DEV_EXEC: MountAttrFlags = NO_SUID_DEV.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// The root under construction.
struct Root(OwnedFd);

/// Builds the root, makes it that of the calling process and returns the console's master. The working directory
/// is the stage, in a mount namespace of the caller's own.
pub(crate) fn build(spec: &ContainerSpec, unified: bool, boot_id: &str) -> Result<OwnedFd> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("make the mount namespace private")?;
    let root = Root(clone(ROOT).context("take the container's root")?);
    // Over the old root: a place that surely exists. Nothing looks there by name before the switch.
    move_mount(&root.0, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context("mount the container's root")?;
    root.devices()?;
    root.attach(&file_system("proc", &[], NO_SUID_DEV_EXEC)?, "proc")?;
    root.attach(&file_system("sysfs", &[], NO_SUID_DEV_EXEC)?, "sys")?;
    if spec.nesting {
        // A new procfs or sysfs may be mounted in a nested user namespace only while one is visible in full.
        root.attach(&file_system("proc", &[], NO_SUID_DEV_EXEC)?, "dev/.lxc/proc")?;
        root.attach(&file_system("sysfs", &[], NO_SUID_DEV_EXEC)?, "dev/.lxc/sys")?;
    }
    // An init that finds none mounts it over what a program sees that got in before it, and that program waits for
    // sockets in a directory that nobody uses. Limits as systemd's (TMPFS_LIMITS_RUN in its mountpoint-util.h).
    let limits = [("mode", "755"), ("size", "20%"), ("nr_inodes", "800k")];
    root.attach(&file_system("tmpfs", &limits, NO_SUID_DEV)?, "run")?;
    root.parts_of_the_host()?;
    if unified {
        root.attach(&file_system("cgroup2", &[], NO_SUID_DEV_EXEC)?, "sys/fs/cgroup")?;
    }
    root.boot_id(boot_id)?;
    let console = root.console()?;
    root.switch()?;
    Ok(console)
}

/// A detached copy of the mount at `path`, with what is below it (a part may not be taken out alone).
pub(crate) fn clone(path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags)
}

/// A new file system, not yet attached.
fn file_system(kind: &str, options: &[(&str, &str)], flags: MountAttrFlags) -> Result<OwnedFd> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            fsconfig_set_string(&fs, *key, *value)?;
        }
        fsconfig_create(&fs)?;
        fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, flags)
    };
    make().with_context(|| format!("make the container's {kind}"))
}

pub(crate) fn attach_to(mount: &OwnedFd, at: &OwnedFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", at, "", flags)
}

impl Root {
    /// Attaches `mount` at the directory `path`.
    fn attach(&self, mount: &OwnedFd, path: &str) -> Result<()> {
        let at = target::directory(&self.0, path).with_context(|| format!("make /{path} in the container"))?;
        attach_to(mount, &at).with_context(|| format!("mount /{path} in the container"))
    }

    /// Attaches `mount` at the file `path`.
    fn attach_file(&self, mount: &OwnedFd, path: &str) -> Result<()> {
        let at = target::file(&self.0, path).with_context(|| format!("make /{path} in the container"))?;
        attach_to(mount, &at).with_context(|| format!("mount /{path} in the container"))
    }

    fn devices(&self) -> Result<()> {
        let size = [("size", "500k"), ("mode", "755")];
        self.attach(&file_system("tmpfs", &size, MountAttrFlags::MOUNT_ATTR_NOSUID)?, "dev")?;
        for name in NODES {
            let node = clone(format!("/dev/{name}")).with_context(|| format!("open /dev/{name}"))?;
            self.attach_file(&node, &format!("dev/{name}"))?;
        }
        for name in OPTIONAL_NODES {
            if let Ok(node) = clone(format!("/dev/{name}")) {
                self.attach_file(&node, &format!("dev/{name}"))?;
            }
        }
        let options = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5"), ("max", "1024")];
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        self.attach(&file_system("devpts", &options, flags)?, "dev/pts")?;
        self.attach(&file_system("tmpfs", &[("mode", "1777")], NO_SUID_DEV)?, "dev/shm")?;
        self.attach(&file_system("mqueue", &[], NO_SUID_DEV_EXEC)?, "dev/mqueue")?;
        let links = [
            ("pts/ptmx", "dev/ptmx"),
            ("/proc/self/fd", "dev/fd"),
            ("/proc/self/fd/0", "dev/stdin"),
            ("/proc/self/fd/1", "dev/stdout"),
            ("/proc/self/fd/2", "dev/stderr"),
        ];
        for (to, at) in links {
            rustix::fs::symlinkat(to, &self.0, at).with_context(|| format!("make /{at} in the container"))?;
        }
        Ok(())
    }

    fn parts_of_the_host(&self) -> Result<()> {
        for path in IF_PRESENT {
            let (Ok(at), Ok(tree)) = (target::open(&self.0, path), clone(format!("/{path}"))) else { continue };
            attach_to(&tree, &at).with_context(|| format!("mount /{path} in the container"))?;
        }
        Ok(())
    }

    /// Gives the container a boot id of its own, for programs inside tell boots of the container by it.
    fn boot_id(&self, boot_id: &str) -> Result<()> {
        const FILE: &str = "dev/.berth-boot-id";
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.0, FILE, flags, Mode::from_raw_mode(0o444)).context("make the boot id")?;
        rustix::io::write(&fd, boot_id.as_bytes()).context("write the boot id")?;
        let tree = open_tree(&self.0, FILE, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
            .context("take the boot id")?;
        crate::sys::mount_setattr(tree.as_fd(), libc::MOUNT_ATTR_RDONLY, None, false).context("protect the boot id")?;
        let at = target::open(&self.0, "proc/sys/kernel/random/boot_id").context("find the boot id")?;
        attach_to(&tree, &at).context("mount the boot id")?;
        rustix::fs::unlinkat(&self.0, FILE, rustix::fs::AtFlags::empty()).context("hide the boot id")
    }

    /// Makes the console a terminal of the container's own devpts.
    fn console(&self) -> Result<OwnedFd> {
        let (master, number) = pty::open_master(&self.0, "dev/pts/ptmx").context("make the console's terminal")?;
        let slave = open_tree(
            &self.0,
            format!("dev/pts/{number}"),
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        )
        .context("take the console's terminal")?;
        self.attach_file(&slave, "dev/console")?;
        Ok(master)
    }

    /// Makes this the root and lets go of the host's.
    fn switch(&self) -> Result<()> {
        rustix::process::fchdir(&self.0).context("enter the new root")?;
        rustix::process::pivot_root(".", ".").context("switch to the new root")?;
        unmount(".", UnmountFlags::DETACH).context("let go of the old root")?;
        rustix::process::chdir(Path::new("/")).context("enter the new root")
    }
}
