//! Figures of a container for monitoring.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use berth_guest::protocol::{CpuTime, Detail, DiskCounters};

use super::usage::{field, field_of, number};
use super::{Cgroups, Hierarchy, Version};

/// Lines of `memory.stat` by LXD's names for them: in version 2, and in version 1 (Documentation/admin-guide).
const MEMORY: &[(&str, &str, &str)] = &[
    ("Active_anon", "active_anon", "total_active_anon"),
    ("Active_file", "active_file", "total_active_file"),
    ("Cached", "file", "total_cache"),
    ("Dirty", "file_dirty", "total_dirty"),
    ("Inactive_anon", "inactive_anon", "total_inactive_anon"),
    ("Inactive_file", "inactive_file", "total_inactive_file"),
    ("Mapped", "file_mapped", "total_mapped_file"),
    ("RSS", "anon", "total_rss"),
    ("Shmem", "shmem", "total_shmem"),
    ("Unevictable", "unevictable", "total_unevictable"),
    ("Writeback", "file_writeback", "total_writeback"),
];

pub(super) fn read(cgroups: &Cgroups) -> Detail {
    let mut detail = Detail::default();
    let at = |hierarchy: &Hierarchy| cgroups.instance(hierarchy);
    let unified = cgroups.hierarchies.iter().find(|h| h.version == Version::Two);
    if let Some(hierarchy) = cgroups.controller("cpuacct") {
        let path = at(hierarchy);
        let [user, system] = ["cpuacct.usage_user", "cpuacct.usage_sys"].map(|file| number(&path.join(file)));
        detail.cpu = times(user, system);
    } else if let Some(hierarchy) = unified {
        let stat = at(hierarchy).join("cpu.stat");
        let [user, system] = ["user_usec", "system_usec"].map(|line| field(&stat, line).saturating_mul(1000));
        detail.cpu = times(user, system);
    }
    if let Some(hierarchy) = cgroups.controller("memory") {
        memory(cgroups, hierarchy.version, &at(hierarchy), &mut detail);
    }
    if let Some(hierarchy) = cgroups.controller("blkio") {
        detail.disks = blkio(&at(hierarchy));
    } else if let Some(hierarchy) = cgroups.controller("io") {
        detail.disks = io(&super::read(&at(hierarchy).join("io.stat")).unwrap_or_default());
    }
    detail
}

/// Nanoseconds of all CPUs together.
fn times(user: u64, system: u64) -> Vec<CpuTime> {
    [("user", user), ("system", system)].map(|(mode, ns)| CpuTime { cpu: 0, mode: mode.to_owned(), ns }).to_vec()
}

fn memory(cgroups: &Cgroups, version: Version, path: &Path, detail: &mut Detail) {
    let stat = super::read(&path.join("memory.stat")).unwrap_or_default();
    for (name, two, one) in MEMORY {
        let line = if version == Version::Two { two } else { one };
        detail.memory.insert((*name).to_owned(), field_of(&stat, line));
    }
    for (sum, parts) in [("Active", ["Active_anon", "Active_file"]), ("Inactive", ["Inactive_anon", "Inactive_file"])] {
        let sum_of_parts = parts.iter().filter_map(|part| detail.memory.get(*part)).sum();
        detail.memory.insert(sum.to_owned(), sum_of_parts);
    }
    let events = if version == Version::Two { "memory.events" } else { "memory.oom_control" };
    detail.oom_kills = field(&path.join(events), "oom_kill");
    let usage = cgroups.usage();
    let total = if usage.memory_limit > 0 { usage.memory_limit } else { host_memory() };
    let free = total.saturating_sub(usage.memory.saturating_add(detail.memory["Inactive_file"]));
    for (name, bytes) in [
        ("MemTotal", total),
        ("MemAvailable", total.saturating_sub(usage.memory)),
        ("MemFree", free),
        ("Swap", usage.swap),
    ] {
        detail.memory.insert(name.to_owned(), bytes);
    }
}

fn host_memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// `io.stat` of version 2: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn io(stat: &str) -> BTreeMap<String, DiskCounters> {
    let mut disks = BTreeMap::new();
    for (device, rest) in stat.lines().filter_map(|line| line.split_once(' ')) {
        let mut counters = DiskCounters::default();
        for (key, value) in rest.split_whitespace().filter_map(|pair| pair.split_once('=')) {
            let value = value.parse().unwrap_or(0);
            match key {
                "rbytes" => counters.read_bytes = value,
                "rios" => counters.reads = value,
                "wbytes" => counters.written_bytes = value,
                "wios" => counters.writes = value,
                _ => {}
            }
        }
        disks.insert(name(device), counters);
    }
    disks
}

/// Lines of version 1: `8:0 Read 4096`.
fn blkio(path: &Path) -> BTreeMap<String, DiskCounters> {
    let mut disks: BTreeMap<String, DiskCounters> = BTreeMap::new();
    for (file, bytes) in [("blkio.throttle.io_service_bytes", true), ("blkio.throttle.io_serviced", false)] {
        for line in super::read(&path.join(file)).unwrap_or_default().lines() {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [device, direction, value] = fields[..] else { continue };
            let Ok(value) = value.parse() else { continue };
            let counters = disks.entry(name(device)).or_default();
            match (direction, bytes) {
                ("Read", true) => counters.read_bytes = value,
                ("Read", false) => counters.reads = value,
                ("Write", true) => counters.written_bytes = value,
                ("Write", false) => counters.writes = value,
                _ => {}
            }
        }
    }
    disks
}

/// Name of a device; its numbers if it is gone.
fn name(numbers: &str) -> String {
    let uevent = fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).unwrap_or_default();
    let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.unwrap_or(numbers).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_of_version_two() {
        let disks = io("999999:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nnonsense\n");
        let wanted = DiskCounters { read_bytes: 1, reads: 3, written_bytes: 2, writes: 4 };
        assert_eq!(disks, [("999999:0".to_owned(), wanted)].into());
    }
}
