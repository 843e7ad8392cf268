//! What a container uses.

use std::path::Path;

use super::{Cgroups, Version};

/// Figures of a container; 0 is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since the start, nanoseconds.
    pub cpu_ns: u64,
    /// Bytes of memory without page cache that could be dropped.
    pub memory: u64,
    /// Most memory seen, with page cache.
    pub memory_peak: u64,
    /// Limit of memory; 0 if there is none.
    pub memory_limit: u64,
    /// Bytes of swap.
    pub swap: u64,
    /// Processes and threads.
    pub processes: u64,
}

pub(super) fn read(cgroups: &Cgroups) -> Usage {
    let mut usage = Usage::default();
    if let Some(hierarchy) = cgroups.controller("memory") {
        memory(hierarchy.version, &cgroups.instance(hierarchy), &mut usage);
    }
    let unified = cgroups.hierarchies.iter().find(|h| h.version == Version::Two);
    if let Some(hierarchy) = cgroups.controller("cpuacct") {
        usage.cpu_ns = number(&cgroups.instance(hierarchy).join("cpuacct.usage"));
    } else if let Some(hierarchy) = unified {
        usage.cpu_ns = field(&cgroups.instance(hierarchy).join("cpu.stat"), "usage_usec").saturating_mul(1000);
    }
    if let Some(hierarchy) = cgroups.controller("pids") {
        usage.processes = number(&cgroups.instance(hierarchy).join("pids.current"));
    }
    usage
}

fn memory(version: Version, path: &Path, usage: &mut Usage) {
    let at = |name: &str| path.join(name);
    match version {
        Version::One => {
            let used = number(&at("memory.usage_in_bytes"));
            usage.memory = used.saturating_sub(field(&at("memory.stat"), "total_inactive_file"));
            usage.memory_peak = number(&at("memory.max_usage_in_bytes"));
            usage.swap = number(&at("memory.memsw.usage_in_bytes")).saturating_sub(used);
            let limit = number(&at("memory.limit_in_bytes"));
            // No limit is told as the highest number of pages.
            usage.memory_limit = if limit >= i64::MAX as u64 & !0xf_ffff { 0 } else { limit };
        }
        Version::Two => {
            let used = number(&at("memory.current"));
            usage.memory = used.saturating_sub(field(&at("memory.stat"), "inactive_file"));
            usage.memory_peak = number(&at("memory.peak"));
            usage.swap = number(&at("memory.swap.current"));
            usage.memory_limit = number(&at("memory.max"));
        }
    }
}

/// The number in a file.
pub(super) fn number(path: &Path) -> u64 {
    super::read(path).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A line's number in a file of names and numbers.
pub(super) fn field(path: &Path, name: &str) -> u64 {
    field_of(&super::read(path).unwrap_or_default(), name)
}

/// The same in a text that was read.
pub(super) fn field_of(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0)
}
