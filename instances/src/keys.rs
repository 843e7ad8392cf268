//! Which configuration keys an instance has, and what their values look like.
//!
//! Only keys that do what they say are here. A key of LXD's that Berth does not serve yet is refused with a text
//! that says so, rather than stored and ignored.

use crate::model::{Config, Kind};
use crate::snapshots::schedule::Schedule;
use crate::snapshots::{expiry, name};
use crate::values::{parse_bool, parse_cpu_set, parse_memory};

/// Value type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bool,
    Integer,
    Memory,
    Cpus,
    Allowance,
    Text,
    Expiry,
    Pattern,
    Schedule,
}

/// To which kind a key applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applies {
    Both,
    Containers,
    VirtualMachines,
}

const KEYS: &[(&str, Form, Applies)] = &[
    ("boot.autostart", Form::Bool, Applies::Both),
    ("boot.autostart.priority", Form::Integer, Applies::Both),
    ("boot.host_shutdown_timeout", Form::Integer, Applies::Both),
    ("cloud-init.network-config", Form::Text, Applies::VirtualMachines),
    ("cloud-init.user-data", Form::Text, Applies::VirtualMachines),
    ("cloud-init.vendor-data", Form::Text, Applies::VirtualMachines),
    ("limits.cpu", Form::Cpus, Applies::Both),
    ("limits.cpu.allowance", Form::Allowance, Applies::Containers),
    ("limits.memory", Form::Memory, Applies::Both),
    ("limits.memory.swap", Form::Bool, Applies::Containers),
    ("limits.processes", Form::Integer, Applies::Containers),
    ("migration.stateful", Form::Bool, Applies::VirtualMachines),
    ("security.nesting", Form::Bool, Applies::Containers),
    ("security.protection.delete", Form::Bool, Applies::Both),
    ("snapshots.expiry", Form::Expiry, Applies::Both),
    ("snapshots.pattern", Form::Pattern, Applies::Both),
    ("snapshots.schedule", Form::Schedule, Applies::Both),
    ("snapshots.schedule.stopped", Form::Bool, Applies::Both),
];

/// Keys of LXD 5.0 that are known and not served yet.
const NOT_YET: &[&str] = &[
    "agent.nic_config",
    "boot.autostart.delay",
    "boot.stop.priority",
    "cluster.evacuate",
    "limits.cpu.priority",
    "limits.disk.priority",
    "limits.memory.enforce",
    "limits.memory.hugepages",
    "limits.memory.swap.priority",
    "limits.network.priority",
    "linux.kernel_modules",
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
    "security.devlxd",
    "security.devlxd.images",
    "security.idmap.base",
    "security.idmap.isolated",
    "security.idmap.size",
    "security.privileged",
    "security.protection.shift",
    "security.secureboot",
    "security.syscalls.allow",
    "security.syscalls.deny",
    "security.syscalls.deny_compat",
    "security.syscalls.deny_default",
];
const NOT_YET_PREFIXES: &[&str] =
    &["limits.hugepages.", "limits.kernel.", "linux.sysctl.", "security.syscalls.intercept."];

/// Prefixes under which any key may stand.
const FREE_PREFIXES: &[&str] = &["user.", "environment.", "image.", "volatile."];

/// Checks a whole configuration; all complaints in one text. `kind` is absent for a profile.
pub fn validate(config: &Config, kind: Option<Kind>) -> Result<(), String> {
    let complaints: Vec<String> = config.iter().filter_map(|(key, value)| complaint(key, value, kind)).collect();
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
}

fn complaint(key: &str, value: &str, kind: Option<Kind>) -> Option<String> {
    if FREE_PREFIXES.iter().any(|prefix| key.len() > prefix.len() && key.starts_with(prefix)) {
        return None;
    }
    let Some((_, form, applies)) = KEYS.iter().find(|(name, ..)| *name == key) else { return Some(unknown(key)) };
    match (applies, kind) {
        (Applies::Containers, Some(Kind::VirtualMachine)) => {
            return Some(format!("key \"{key}\" applies to containers only; remove it from this virtual machine"));
        }
        (Applies::VirtualMachines, Some(Kind::Container)) => {
            return Some(format!("key \"{key}\" applies to virtual machines only; remove it from this container"));
        }
        _ => {}
    }
    if *applies == Applies::VirtualMachines && kind == Some(Kind::Container) {
        return Some(format!("key \"{key}\" applies to virtual machines only yet; remove it from this container"));
    }
    if value.is_empty() {
        return None;
    }
    check(*form, value).err().map(|reason| format!("value of \"{key}\": {reason}"))
}

fn unknown(key: &str) -> String {
    if NOT_YET.contains(&key) || NOT_YET_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
        return format!("key \"{key}\" is not supported by this version of Berth; leave it out");
    }
    let known = KEYS.iter().map(|(name, ..)| *name);
    match closest(key, known) {
        Some(near) => format!("unknown configuration key \"{key}\"; did you mean \"{near}\"?"),
        None => format!("unknown configuration key \"{key}\"; own keys begin with \"user.\""),
    }
}

/// The known word nearest to `word`, if one is near enough to be meant.
pub(crate) fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NEAR: usize = 3;
    known.map(|k| (strsim::damerau_levenshtein(word, k), k)).filter(|(d, _)| *d <= NEAR).min().map(|(_, k)| k)
}

fn check(form: Form, value: &str) -> Result<(), String> {
    match form {
        Form::Bool => parse_bool(value).map(drop),
        Form::Integer => value.parse::<i64>().map(drop).map_err(|_| format!("\"{value}\" is not a whole number")),
        Form::Memory => parse_memory(value).map(drop),
        Form::Cpus => cpus(value).map(drop),
        Form::Text => Ok(()),
        Form::Allowance => allowance(value).map(drop),
        Form::Expiry => expiry::parse(value).map(drop),
        Form::Pattern => name::check_pattern(value),
        Form::Schedule => Schedule::parse(value).map(drop),
    }
}

/// Value of `limits.cpu`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cpus {
    Count(u32),
    Set(String),
}

pub(crate) fn cpus(value: &str) -> Result<Cpus, String> {
    match value.parse::<u32>() {
        Ok(0) => Err("an instance needs at least 1 CPU".to_owned()),
        Ok(count) => Ok(Cpus::Count(count)),
        Err(_) => parse_cpu_set(value).map(|_| Cpus::Set(value.to_owned())),
    }
}

/// Value of `limits.cpu.allowance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allowance {
    /// Share in percent when the CPUs are contended.
    Percent(u32),
    /// At most `quota` in each `period`, both in microseconds.
    Quota { quota: u64, period: u64 },
}

pub(crate) fn allowance(value: &str) -> Result<Allowance, String> {
    let complaint = || format!("\"{value}\" is not a CPU allowance; use for example 50% or 25ms/100ms");
    if let Some(percent) = value.strip_suffix('%') {
        return match percent.parse() {
            Ok(percent @ 1..=100) => Ok(Allowance::Percent(percent)),
            _ => Err(complaint()),
        };
    }
    let milliseconds = |text: &str| text.strip_suffix("ms").and_then(|n| n.parse::<u64>().ok()).filter(|n| *n > 0);
    let (quota, period) = value.split_once('/').ok_or_else(complaint)?;
    match (milliseconds(quota), milliseconds(period)) {
        // cpu.cfs_period_us may be 1 ms to 1 s (kernel doc scheduler/sched-bwc.rst).
        (Some(quota), Some(period @ 1..=1000)) => {
            Ok(Allowance::Quota { quota: quota.saturating_mul(1000), period: period * 1000 })
        }
        _ => Err(complaint()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str, kind: Option<Kind>) -> Result<(), String> {
        validate(&Config::from([(key.to_owned(), value.to_owned())]), kind)
    }

    #[test]
    fn served_keys_take_good_values_only() {
        for (key, value) in [
            ("limits.cpu", "2"),
            ("limits.cpu", "0-1"),
            ("limits.memory", "50%"),
            ("limits.memory", "512MiB"),
            ("limits.cpu.allowance", "25ms/100ms"),
            ("user.anything", "at all"),
            ("environment.LANG", "C"),
            ("limits.memory", ""),
        ] {
            assert_eq!(one(key, value, Some(Kind::Container)), Ok(()), "{key}={value}");
        }
        for (key, value) in [
            ("limits.cpu", "0"),
            ("limits.memory", "lots"),
            ("limits.memory", "101%"),
            ("security.nesting", "maybe"),
            ("limits.cpu.allowance", "25ms/10s"),
            ("user.", "x"),
        ] {
            assert!(one(key, value, Some(Kind::Container)).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        assert!(one("limits.memry", "1GiB", None).unwrap_err().contains("did you mean \"limits.memory\""));
    }

    #[test]
    fn known_but_unserved_keys_say_so() {
        assert!(one("security.privileged", "true", None).unwrap_err().contains("not supported by this version"));
        assert!(one("limits.kernel.nofile", "1", None).unwrap_err().contains("not supported by this version"));
    }

    #[test]
    fn keys_of_one_kind_are_refused_for_the_other() {
        assert!(one("limits.processes", "100", Some(Kind::VirtualMachine)).is_err());
        assert_eq!(one("limits.processes", "100", None), Ok(()), "a profile may serve both kinds");
        assert!(one("migration.stateful", "true", Some(Kind::Container)).is_err());
        assert_eq!(one("migration.stateful", "true", Some(Kind::VirtualMachine)), Ok(()));
    }
}
