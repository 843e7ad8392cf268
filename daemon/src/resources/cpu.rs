//! Processors and memory.

use std::{collections::BTreeMap, fs, path::Path};

use berth_api::resources::{ResourcesCpu, ResourcesCpuCore, ResourcesCpuSocket, ResourcesCpuThread, ResourcesMemory};

use super::number;

/// Threads of each core of each socket, as the kernel tells.
pub fn cpu(root: &Path) -> ResourcesCpu {
    let mut sockets: BTreeMap<u64, BTreeMap<u64, Vec<ResourcesCpuThread>>> = BTreeMap::new();
    let mut total = 0;
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix("cpu")).and_then(|id| id.parse::<u32>().ok());
        let Some(id) = id else { continue };
        let topology = entry.path().join("topology");
        let (socket, core) = (
            number(&topology.join("physical_package_id")).unwrap_or(0),
            number(&topology.join("core_id")).unwrap_or(0),
        );
        let threads = sockets.entry(socket).or_default().entry(core).or_default();
        let online = number(&entry.path().join("online")).is_none_or(|online| online == 1);
        threads.push(ResourcesCpuThread { id: i64::from(id), online, ..ResourcesCpuThread::default() });
        total += u64::from(online);
    }
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = info.lines().find(|line| line.starts_with(key));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let sockets = sockets.into_iter().map(|(socket, cores)| ResourcesCpuSocket {
        name: field("model name"),
        vendor: field("vendor_id"),
        socket,
        cores: cores.into_iter().map(|(core, threads)| core_of(core, threads)).collect(),
    });
    ResourcesCpu { architecture: std::env::consts::ARCH.to_owned(), sockets: sockets.collect(), total }
}

fn core_of(core: u64, mut threads: Vec<ResourcesCpuThread>) -> ResourcesCpuCore {
    threads.sort_by_key(|thread| thread.id);
    for (number, thread) in (0..).zip(&mut threads) {
        thread.thread = number;
    }
    ResourcesCpuCore { core, threads, ..ResourcesCpuCore::default() }
}

/// Memory.
pub fn memory() -> ResourcesMemory {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| -> u64 {
        let line = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let (pages, free, size) = (kib("HugePages_Total"), kib("HugePages_Free"), kib("Hugepagesize") * 1024);
    ResourcesMemory {
        hugepages_total: pages * size,
        hugepages_used: pages.saturating_sub(free) * size,
        hugepages_size: size,
        used: kib("MemTotal").saturating_sub(kib("MemAvailable")) * 1024,
        total: kib("MemTotal") * 1024,
        ..ResourcesMemory::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_a_processor_and_memory() {
        let cpu = cpu(Path::new("/sys/devices/system/cpu"));
        let threads: usize = cpu.sockets.iter().flat_map(|s| &s.cores).map(|c| c.threads.len()).sum();
        assert!(cpu.total >= 1 && threads as u64 >= cpu.total);
        assert!(memory().total > memory().used);
    }
}
