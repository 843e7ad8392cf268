//! Limits in the terms of either version.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{BASE, Cgroups, Hierarchy, Version, cpus, read, write};
use crate::error::{Error, Result};
use crate::spec::{CpuAllowance, CpuLimit, Limits};

impl Cgroups {
    /// Sets them on the directory that stays the host's.
    pub(super) fn set_limits(&self, limits: &Limits) -> Result<()> {
        if limits.memory.is_some() || limits.swap == Some(false) {
            let hierarchy = self.require("memory", "limits.memory")?;
            memory(hierarchy.version, &self.instance(hierarchy), limits)?;
        }
        if let Some(cpu) = &limits.cpus {
            let hierarchy = self.require("cpuset", "limits.cpu")?;
            self.pin(hierarchy, cpu)?;
        }
        if let Some(allowance) = limits.cpu_allowance {
            let hierarchy = self.require("cpu", "limits.cpu.allowance")?;
            cpu_time(hierarchy.version, &self.instance(hierarchy), allowance)?;
        }
        if let Some(processes) = limits.processes {
            let hierarchy = self.require("pids", "limits.processes")?;
            write(&self.instance(hierarchy).join("pids.max"), &processes.to_string())?;
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

    fn pin(&self, hierarchy: &Hierarchy, limit: &CpuLimit) -> Result<()> {
        let effective = match hierarchy.version {
            Version::One => "cpuset.effective_cpus",
            Version::Two => "cpuset.cpus.effective",
        };
        let online = read(&hierarchy.root.join(effective)).or_else(|| read(&hierarchy.root.join("cpuset.cpus")));
        let online = online.as_deref().and_then(cpus::parse).unwrap_or_default();
        let chosen = match limit {
            CpuLimit::Set(text) => {
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
            CpuLimit::Count(0) => return Err(Error::Spec("limits.cpu must be at least 1".into())),
            CpuLimit::Count(count) => cpus::spread(&online, &pinned(&hierarchy.root, &online), *count as usize),
        };
        write(&self.instance(hierarchy).join("cpuset.cpus"), &cpus::format(&chosen))
    }
}

/// The sets of the containers that are tied to some of the CPUs.
fn pinned(root: &Path, online: &BTreeSet<u32>) -> Vec<BTreeSet<u32>> {
    let Ok(entries) = fs::read_dir(root.join(BASE)) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| !entry.file_name().to_string_lossy().contains('.'))
        .filter_map(|entry| cpus::parse(&read(&entry.path().join("cpuset.cpus"))?))
        .filter(|set| !set.is_empty() && set != online)
        .collect()
}

fn memory(version: Version, path: &Path, limits: &Limits) -> Result<()> {
    let no_swap = limits.swap == Some(false);
    match version {
        Version::Two => {
            if let Some(bytes) = limits.memory {
                write(&path.join("memory.max"), &bytes.to_string())?;
            }
            // Without swap accounting the file is missing; there is no swap to be used then either, or no way to say so.
            if no_swap && path.join("memory.swap.max").exists() {
                write(&path.join("memory.swap.max"), "0")?;
            }
        }
        Version::One => {
            if let Some(bytes) = limits.memory {
                write(&path.join("memory.limit_in_bytes"), &bytes.to_string())?;
            }
            if no_swap {
                write(&path.join("memory.swappiness"), "0")?;
                // Memory and swap together; it may not be below the limit set before.
                let both = path.join("memory.memsw.limit_in_bytes");
                if let Some(bytes) = limits.memory.filter(|_| both.exists()) {
                    write(&both, &bytes.to_string())?;
                }
            }
        }
    }
    Ok(())
}

fn cpu_time(version: Version, path: &Path, allowance: CpuAllowance) -> Result<()> {
    match (version, allowance) {
        (Version::One, CpuAllowance::Shares(shares)) => write(&path.join("cpu.shares"), &shares.max(2).to_string()),
        // The ordinary weight is 100 where version 1 says 1024.
        (Version::Two, CpuAllowance::Shares(shares)) => {
            let weight = (u64::from(shares) * 100 / 1024).clamp(1, 10_000);
            write(&path.join("cpu.weight"), &weight.to_string())
        }
        (Version::One, CpuAllowance::Quota { quota_us, period_us }) => {
            write(&path.join("cpu.cfs_period_us"), &period_us.to_string())?;
            write(&path.join("cpu.cfs_quota_us"), &quota_us.to_string())
        }
        (Version::Two, CpuAllowance::Quota { quota_us, period_us }) => {
            write(&path.join("cpu.max"), &format!("{quota_us} {period_us}"))
        }
    }
}
