//! Limits in the terms of either version.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{BASE, Cgroups, Hierarchy, Version, cpus, memory, read, write};
use crate::error::{Error, Result};
use crate::spec::{CpuAllowance, CpuLimit, Limits};

/// Highest and ordinary priority of CPU time.
const CPU_PRIORITY_MAX: u8 = 10;
/// `cpu.shares` of an ordinary group of version 1, `cpu.weight` of one of version 2 is 100.
const SHARES: u64 = 1024;
/// The kernel's own period, microseconds.
const PERIOD_US: u64 = 100_000;

impl Cgroups {
    /// Goes from the limits `old` to `new`, on the directory that stays the host's. If one of the new limits cannot be
    /// set all are as before.
    pub fn change_limits(&self, old: &Limits, new: &Limits) -> Result<()> {
        let result = self.change(old, new);
        if result.is_err() {
            // What was possible once is possible again; the first failure is the one to tell.
            let _ = self.change(new, old);
        }
        result
    }

    fn change(&self, old: &Limits, new: &Limits) -> Result<()> {
        if (old.memory, old.swap) != (new.memory, new.swap) {
            let hierarchy = self.require("memory", "limits.memory")?;
            memory::limit(hierarchy.version, &self.instance(hierarchy), new)?;
        }
        if (old.swap, old.swap_priority) != (new.swap, new.swap_priority) {
            let hierarchy = self.require("memory", "limits.memory.swap.priority")?;
            memory::swappiness(hierarchy.version, &self.instance(hierarchy), new)?;
        }
        if old.cpus != new.cpus {
            self.pin(self.require("cpuset", "limits.cpu")?, new.cpus.as_ref())?;
        }
        if (old.cpu_allowance, old.cpu_priority) != (new.cpu_allowance, new.cpu_priority) {
            let hierarchy = self.require("cpu", "limits.cpu.allowance")?;
            cpu_time(hierarchy.version, &self.instance(hierarchy), new)?;
        }
        if old.processes != new.processes {
            let hierarchy = self.require("pids", "limits.processes")?;
            write(&self.instance(hierarchy).join("pids.max"), &number(new.processes))?;
        }
        if old.disk_priority != new.disk_priority {
            self.disk_weight(new.disk_priority)?;
        }
        for size in old.hugepages.keys().chain(new.hugepages.keys()) {
            if old.hugepages.get(size) != new.hugepages.get(size) {
                self.hugepages(size, new.hugepages.get(size).copied())?;
            }
        }
        Ok(())
    }

    fn require(&self, controller: &str, key: &str) -> Result<&Hierarchy> {
        self.controller(controller).ok_or_else(|| {
            Error::Unsupported(format!(
                "{key} needs the cgroup controller {controller:?}, which this host does not offer; enable it or unset \
                 {key}"
            ))
        })
    }

    fn pin(&self, hierarchy: &Hierarchy, limit: Option<&CpuLimit>) -> Result<()> {
        let effective = match hierarchy.version {
            Version::One => "cpuset.effective_cpus",
            Version::Two => "cpuset.cpus.effective",
        };
        let online = read(&hierarchy.root.join(effective)).or_else(|| read(&hierarchy.root.join("cpuset.cpus")));
        let online = online.as_deref().and_then(cpus::parse).unwrap_or_default();
        let chosen = match limit {
            None => online,
            Some(CpuLimit::Set(text)) => {
                let set = cpus::parse(text).filter(|set| !set.is_empty());
                let set = set.ok_or_else(|| Error::Spec(format!("limits.cpu {text:?} is no list of CPUs")))?;
                if let Some(missing) = set.difference(&online).next() {
                    return Err(Error::Unsupported(format!(
                        "limits.cpu names CPU {missing}, but this host has {}; choose among those",
                        cpus::format(&online)
                    )));
                }
                set
            }
            Some(CpuLimit::Count(0)) => return Err(Error::Spec("limits.cpu must be at least 1".into())),
            Some(CpuLimit::Count(count)) => cpus::spread(&online, &self.pinned(hierarchy, &online), *count as usize),
        };
        self.set_cpus(hierarchy, &chosen)
    }

    /// In version 1 no set may hold a CPU that the one above has not, at any moment.
    fn set_cpus(&self, hierarchy: &Hierarchy, chosen: &BTreeSet<u32>) -> Result<()> {
        let file = self.instance(hierarchy).join("cpuset.cpus");
        let payload = self.payload(hierarchy).join("cpuset.cpus");
        if hierarchy.version == Version::One && payload.exists() {
            let now = read(&file).as_deref().and_then(cpus::parse).unwrap_or_default();
            write(&file, &cpus::format(&now.union(chosen).copied().collect()))?;
            write(&payload, &cpus::format(chosen))?;
        }
        write(&file, &cpus::format(chosen))
    }

    /// The sets of the other containers that are tied to some of the CPUs.
    fn pinned(&self, hierarchy: &Hierarchy, online: &BTreeSet<u32>) -> Vec<BTreeSet<u32>> {
        let Ok(entries) = fs::read_dir(hierarchy.root.join(BASE)) else { return Vec::new() };
        let others = entries.filter_map(Result::ok).filter(|entry| {
            let name = entry.file_name();
            name != self.uuid.as_str() && !name.to_string_lossy().contains('.')
        });
        others
            .filter_map(|entry| cpus::parse(&read(&entry.path().join("cpuset.cpus"))?))
            .filter(|set| !set.is_empty() && set != online)
            .collect()
    }

    fn disk_weight(&self, priority: Option<u8>) -> Result<()> {
        const KEY: &str = "limits.disk.priority";
        let modern = self.controller("io");
        let hierarchy = match modern {
            Some(hierarchy) => hierarchy,
            None => self.require("blkio", KEY)?,
        };
        // 5 is 500, the ordinary weight of blkio; the others begin at 10 and have 100 as the ordinary one.
        let weight = u64::from(priority.unwrap_or(5)) * 100;
        let files: [(&str, u64); 2] = match hierarchy.version {
            Version::One => [("blkio.weight", weight.max(10)), ("blkio.bfq.weight", weight.clamp(10, 1000))],
            Version::Two => [("io.weight", (weight / 5).max(1)), ("io.bfq.weight", (weight / 5).max(1))],
        };
        let instance = self.instance(hierarchy);
        let present =
            files.map(|(name, weight)| (instance.join(name), weight)).into_iter().find(|(file, _)| file.exists());
        let (file, weight) = present.ok_or_else(|| {
            Error::Unsupported(format!(
                "this kernel has no weights of disk time for cgroups, which {KEY} needs; unset it"
            ))
        })?;
        write(&file, &weight.to_string())
    }

    fn hugepages(&self, size: &str, bytes: Option<u64>) -> Result<()> {
        let key = format!("limits.hugepages.{size}");
        let hierarchy = self.require("hugetlb", &key)?;
        let (end, none) = match hierarchy.version {
            Version::One => ("limit_in_bytes", "-1"),
            Version::Two => ("max", "max"),
        };
        let file = self.instance(hierarchy).join(format!("hugetlb.{size}.{end}"));
        if !file.exists() {
            return Err(Error::Unsupported(format!(
                "this host has no huge pages of {size}, which {key} is about; unset it"
            )));
        }
        write(&file, &bytes.map_or(none.to_owned(), |bytes| bytes.to_string()))
    }
}

/// A number of something, or the word for no limit, which both versions share for some files.
pub(super) fn number(limit: Option<u64>) -> String {
    limit.map_or("max".to_owned(), |limit| limit.to_string())
}

fn cpu_time(version: Version, path: &Path, limits: &Limits) -> Result<()> {
    let percent = match limits.cpu_allowance {
        Some(CpuAllowance::Percent(percent)) => u64::from(percent),
        _ => 100,
    };
    // A priority settles who comes first among equals, no more: it is one of a hundred or a thousand shares.
    let behind = u64::from(CPU_PRIORITY_MAX - limits.cpu_priority.unwrap_or(CPU_PRIORITY_MAX).min(CPU_PRIORITY_MAX));
    let quota = match limits.cpu_allowance {
        Some(CpuAllowance::Quota { quota_us, period_us }) => Some((quota_us, period_us)),
        _ => None,
    };
    match version {
        Version::One => {
            let shares = (percent * SHARES / 100).saturating_sub(behind).max(2);
            write(&path.join("cpu.shares"), &shares.to_string())?;
            let (quota, period) =
                quota.map_or(("-1".to_owned(), PERIOD_US), |(quota, period)| (quota.to_string(), period));
            write(&path.join("cpu.cfs_period_us"), &period.to_string())?;
            write(&path.join("cpu.cfs_quota_us"), &quota)
        }
        Version::Two => {
            write(&path.join("cpu.weight"), &percent.saturating_sub(behind).max(1).to_string())?;
            let (quota, period) = quota.map_or((None, PERIOD_US), |(quota, period)| (Some(quota), period));
            write(&path.join("cpu.max"), &format!("{} {period}", number(quota)))
        }
    }
}
