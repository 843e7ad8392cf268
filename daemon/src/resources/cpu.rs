//! Processors and memory.

use std::{collections::BTreeMap, path::Path};

use berth_api::resources::{ResourcesCpu, ResourcesCpuCore, ResourcesCpuSocket, ResourcesCpuThread, ResourcesMemory};

use super::{names, number, text};

/// Threads of each core of each socket, as the kernel tells.
pub fn cpu(sys: &Path, proc: &Path) -> ResourcesCpu {
    let root = sys.join("devices/system/cpu");
    let mut sockets: BTreeMap<u64, BTreeMap<u64, Vec<ResourcesCpuThread>>> = BTreeMap::new();
    let mut total = 0;
    for name in names(&root) {
        let Some(id) = name.strip_prefix("cpu").and_then(|id| id.parse::<u32>().ok()) else { continue };
        let path = root.join(&name);
        let topology = path.join("topology");
        let (socket, core) = (
            number(&topology.join("physical_package_id")).unwrap_or(0),
            number(&topology.join("core_id")).unwrap_or(0),
        );
        let threads = sockets.entry(socket).or_default().entry(core).or_default();
        let online = number(&path.join("online")).is_none_or(|online| online == 1);
        threads.push(ResourcesCpuThread { id: i64::from(id), online, ..ResourcesCpuThread::default() });
        total += u64::from(online);
    }
    let info = text(&proc.join("cpuinfo"));
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
pub fn memory(proc: &Path) -> ResourcesMemory {
    let info = text(&proc.join("meminfo"));
    let number = |key: &str| -> u64 {
        let line = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    let bytes = |key: &str| number(key).saturating_mul(1024);
    let (pages, free, size) = (number("HugePages_Total"), number("HugePages_Free"), bytes("Hugepagesize"));
    ResourcesMemory {
        hugepages_total: pages.saturating_mul(size),
        hugepages_used: pages.saturating_sub(free).saturating_mul(size),
        hugepages_size: size,
        used: bytes("MemTotal").saturating_sub(bytes("MemAvailable")),
        total: bytes("MemTotal"),
        ..ResourcesMemory::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::fixture::tree;

    #[test]
    fn threads_of_cores_of_sockets() {
        let root = tree(&[
            ("sys/devices/system/cpu/cpu0/topology/physical_package_id", "0"),
            ("sys/devices/system/cpu/cpu0/topology/core_id", "0"),
            ("sys/devices/system/cpu/cpu2/online", "1"),
            ("sys/devices/system/cpu/cpu2/topology/core_id", "0"),
            ("sys/devices/system/cpu/cpu1/online", "0"),
            ("sys/devices/system/cpu/cpu1/topology/physical_package_id", "1"),
            ("sys/devices/system/cpu/cpufreq/policy", "x"),
            ("proc/cpuinfo", "processor: 0\nvendor_id\t: V\nmodel name\t: M 1\nmodel name\t: M 2"),
        ]);
        let cpu = cpu(&root.path().join("sys"), &root.path().join("proc"));
        let [first, second] = &cpu.sockets[..] else { panic!("{cpu:?}") };
        assert_eq!((cpu.total, &*first.name, &*first.vendor, first.socket, second.socket), (2, "M 1", "V", 0, 1));
        let threads: Vec<_> = first.cores[0].threads.iter().map(|t| (t.id, t.thread, t.online)).collect();
        assert_eq!(threads, [(0, 0, true), (2, 1, true)]);
        assert!(!second.cores[0].threads[0].online);
    }

    #[test]
    fn memory_with_large_pages() {
        let text = "MemTotal: 100 kB\nMemAvailable:  40 kB\nHugePages_Total: 3\nHugePages_Free: 1\nHugepagesize: 2 kB";
        let proc = tree(&[("meminfo", text)]);
        let memory = memory(proc.path());
        assert_eq!((memory.total, memory.used), (100 << 10, 60 << 10));
        assert_eq!((memory.hugepages_size, memory.hugepages_total, memory.hugepages_used), (2048, 6144, 4096));
    }

    #[test]
    fn numbers_without_measure_do_not_overflow() {
        let max = u64::MAX;
        let proc = tree(&[("meminfo", &format!("MemTotal: {max} kB\nHugePages_Total: {max}\nHugepagesize: {max} kB"))]);
        assert_eq!(memory(proc.path()).hugepages_total, max);
    }
}
