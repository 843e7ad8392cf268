//! Which keys there are.

use super::forms::Form;
use crate::model::Kind;

/// To which kind a key applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applies {
    Both,
    Containers,
    Machines,
}

impl Applies {
    /// Why the key is not for instances of this kind.
    pub(super) fn refusal(self, kind: Kind) -> Option<&'static str> {
        match (self, kind) {
            (Self::Containers, Kind::VirtualMachine) => Some("containers only; remove it from this virtual machine"),
            (Self::Machines, Kind::Container) => Some("virtual machines only; remove it from this container"),
            _ => None,
        }
    }
}

/// Beginning of the keys that set kernel settings inside.
pub(super) const SYSCTL: &str = "linux.sysctl.";

/// Keys that do what they say.
pub(super) const KEYS: &[(&str, Form, Applies)] = &[
    ("boot.autostart", Form::Bool, Applies::Both),
    ("boot.autostart.delay", Form::Count, Applies::Both),
    ("boot.autostart.priority", Form::Integer, Applies::Both),
    ("boot.host_shutdown_timeout", Form::Count, Applies::Both),
    ("boot.stop.priority", Form::Integer, Applies::Both),
    ("cloud-init.network-config", Form::Text, Applies::Both),
    ("cloud-init.user-data", Form::Text, Applies::Both),
    ("cloud-init.vendor-data", Form::Text, Applies::Both),
    ("limits.cpu", Form::Cpus, Applies::Both),
    ("limits.cpu.allowance", Form::Allowance, Applies::Containers),
    ("limits.cpu.priority", Form::Priority, Applies::Containers),
    ("limits.disk.priority", Form::Priority, Applies::Containers),
    ("limits.hugepages.1GB", Form::Size, Applies::Containers),
    ("limits.hugepages.1MB", Form::Size, Applies::Containers),
    ("limits.hugepages.2MB", Form::Size, Applies::Containers),
    ("limits.hugepages.64KB", Form::Size, Applies::Containers),
    ("limits.kernel.as", Form::Rlimit, Applies::Containers),
    ("limits.kernel.core", Form::Rlimit, Applies::Containers),
    ("limits.kernel.cpu", Form::Rlimit, Applies::Containers),
    ("limits.kernel.data", Form::Rlimit, Applies::Containers),
    ("limits.kernel.fsize", Form::Rlimit, Applies::Containers),
    ("limits.kernel.locks", Form::Rlimit, Applies::Containers),
    ("limits.kernel.memlock", Form::Rlimit, Applies::Containers),
    ("limits.kernel.msgqueue", Form::Rlimit, Applies::Containers),
    ("limits.kernel.nice", Form::Rlimit, Applies::Containers),
    ("limits.kernel.nofile", Form::Rlimit, Applies::Containers),
    ("limits.kernel.nproc", Form::Rlimit, Applies::Containers),
    ("limits.kernel.rss", Form::Rlimit, Applies::Containers),
    ("limits.kernel.rtprio", Form::Rlimit, Applies::Containers),
    ("limits.kernel.rttime", Form::Rlimit, Applies::Containers),
    ("limits.kernel.sigpending", Form::Rlimit, Applies::Containers),
    ("limits.kernel.stack", Form::Rlimit, Applies::Containers),
    ("limits.memory", Form::Memory, Applies::Both),
    ("limits.memory.enforce", Form::OneOf(&["hard", "soft"]), Applies::Containers),
    ("limits.memory.swap", Form::Bool, Applies::Containers),
    ("limits.memory.swap.priority", Form::Priority, Applies::Containers),
    ("limits.processes", Form::Count, Applies::Containers),
    ("linux.kernel_modules", Form::Modules, Applies::Containers),
    (SYSCTL, Form::Sysctl, Applies::Containers),
    ("migration.stateful", Form::Bool, Applies::Machines),
    ("security.devlxd", Form::Bool, Applies::Containers),
    ("security.idmap.isolated", Form::Bool, Applies::Containers),
    ("security.nesting", Form::Bool, Applies::Containers),
    ("security.protection.delete", Form::Bool, Applies::Both),
    // No files are ever shifted: mounts show the ids that a container has.
    ("security.protection.shift", Form::Bool, Applies::Containers),
    ("security.secureboot", Form::Never("virtual machines boot their kernel without firmware"), Applies::Machines),
    ("snapshots.expiry", Form::Expiry, Applies::Both),
    ("snapshots.pattern", Form::Pattern, Applies::Both),
    ("snapshots.schedule", Form::Schedule, Applies::Both),
    ("snapshots.schedule.stopped", Form::Bool, Applies::Both),
];

/// Keys of LXD 5.0 that are known and not served yet.
pub(super) const NOT_YET: &[&str] = &[
    "agent.nic_config",
    "cluster.evacuate",
    "limits.memory.hugepages",
    "limits.network.priority",
    "migration.incremental.memory",
    "migration.incremental.memory.goal",
    "migration.incremental.memory.iterations",
    "nvidia.driver.capabilities",
    "nvidia.require.cuda",
    "nvidia.require.driver",
    "nvidia.runtime",
    "raw.apparmor",
    "raw.idmap",
    "raw.lxc",
    "raw.qemu",
    "raw.qemu.conf",
    "raw.seccomp",
    "security.agent.metrics",
    "security.devlxd.images",
    "security.idmap.base",
    "security.idmap.size",
    "security.privileged",
    "security.syscalls.allow",
    "security.syscalls.deny",
    "security.syscalls.deny_compat",
    "security.syscalls.deny_default",
];

/// The same for all keys that begin so.
pub(super) const NOT_YET_PREFIXES: &[&str] = &["security.syscalls.intercept."];

/// Prefixes under which any key may stand.
pub(super) const FREE_PREFIXES: &[&str] = &["user.", "environment.", "image.", "volatile."];
