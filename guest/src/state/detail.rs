//! Figures for monitoring, of a whole machine.

use std::{collections::BTreeMap, fs};

use super::USER_HZ;
use crate::protocol::{CpuTime, Detail, DiskCounters, Filesystem};

/// Modes of a CPU in the order of `/proc/stat` (proc(5)); times as a guest are in `user` already.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
/// Size of a sector in `/proc/diskstats`, whatever the device's own is.
const SECTOR: u64 = 512;
/// Lines of `/proc/meminfo` with LXD's names for them.
const MEMORY: &[(&str, &str)] = &[
    ("Active", "Active"),
    ("Active(anon)", "Active_anon"),
    ("Active(file)", "Active_file"),
    ("AnonPages", "RSS"),
    ("Cached", "Cached"),
    ("Dirty", "Dirty"),
    ("Inactive", "Inactive"),
    ("Inactive(anon)", "Inactive_anon"),
    ("Inactive(file)", "Inactive_file"),
    ("Mapped", "Mapped"),
    ("MemAvailable", "MemAvailable"),
    ("MemFree", "MemFree"),
    ("MemTotal", "MemTotal"),
    ("Shmem", "Shmem"),
    ("Unevictable", "Unevictable"),
    ("Writeback", "Writeback"),
];

/// Reads all of them.
pub(super) fn read(meminfo: &str) -> Detail {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Detail {
        cpu: cpu(&text("/proc/stat")),
        memory: memory(meminfo),
        oom_kills: field(&text("/proc/vmstat"), "oom_kill"),
        disks: disks(&text("/proc/diskstats")),
        filesystems: filesystems(&text("/proc/self/mounts")),
    }
}

fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    value.unwrap_or(0)
}

fn cpu(stat: &str) -> Vec<CpuTime> {
    let of_line = |line: &str| {
        let (name, times) = line.split_once(' ')?;
        let cpu: u32 = name.strip_prefix("cpu")?.parse().ok()?;
        let ticks = times.split_whitespace().map(|ticks| ticks.parse::<u64>().unwrap_or(0));
        let time = move |(mode, ticks): (&&str, u64)| CpuTime {
            cpu,
            mode: (*mode).to_owned(),
            ns: ticks.saturating_mul(1_000_000_000 / USER_HZ),
        };
        Some(MODES.iter().zip(ticks).map(time).collect::<Vec<_>>())
    };
    stat.lines().filter_map(of_line).flatten().collect()
}

fn memory(meminfo: &str) -> BTreeMap<String, u64> {
    let mut memory = BTreeMap::new();
    let (mut swap, mut pages, mut free, mut size) = ((0, 0), 0, 0, 0);
    for (key, value) in meminfo.lines().filter_map(|line| line.split_once(':')) {
        let number: u64 = value.trim().trim_end_matches("kB").trim_end().parse().unwrap_or(0);
        let bytes = number.saturating_mul(1024);
        match key {
            "SwapTotal" => swap.0 = bytes,
            "SwapFree" => swap.1 = bytes,
            "HugePages_Total" => pages = number,
            "HugePages_Free" => free = number,
            "Hugepagesize" => size = bytes,
            _ => {
                if let Some((_, name)) = MEMORY.iter().find(|(line, _)| *line == key) {
                    memory.insert((*name).to_owned(), bytes);
                }
            }
        }
    }
    memory.insert("Swap".to_owned(), swap.0.saturating_sub(swap.1));
    memory.insert("HugepagesTotal".to_owned(), size.saturating_mul(pages));
    memory.insert("HugepagesFree".to_owned(), size.saturating_mul(free));
    memory
}

/// Whole disks and partitions that have been used (Documentation/admin-guide/iostats.rst).
fn disks(diskstats: &str) -> BTreeMap<String, DiskCounters> {
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        let counters = DiskCounters {
            reads: number(3)?,
            read_bytes: number(5)?.saturating_mul(SECTOR),
            writes: number(7)?,
            written_bytes: number(9)?.saturating_mul(SECTOR),
        };
        let used = counters.reads + counters.writes > 0;
        used.then(|| (fields[2].to_owned(), counters))
    };
    diskstats.lines().filter_map(of_line).collect()
}

/// File systems on devices, each once.
fn filesystems(mounts: &str) -> Vec<Filesystem> {
    let mut found: Vec<Filesystem> = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some(device), Some(mountpoint), Some(kind)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if !device.starts_with('/') || found.iter().any(|other| other.device == device) {
            continue;
        }
        let Ok(space) = rustix::fs::statvfs(mountpoint) else { continue };
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
        found.push(Filesystem {
            device: device.to_owned(),
            kind: kind.to_owned(),
            mountpoint: mountpoint.to_owned(),
            size: bytes(space.f_blocks),
            free: bytes(space.f_bfree),
            available: bytes(space.f_bavail),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel_are_read() {
        let times = cpu("cpu  9 9 9 9\ncpu0 100 0 50 9999 7 1 2 3 0 0\ncpu1 1 2\nintr 5\n");
        assert_eq!(times.len(), 10);
        assert_eq!(times[2], CpuTime { cpu: 0, mode: "system".into(), ns: 500_000_000 });
        let memory = memory(
            "MemTotal: 8 kB\nActive(anon): 2 kB\nSwapTotal: 4 kB\nSwapFree: 1 kB\nHugePages_Total: 2\nHugepagesize: 2048 kB\n",
        );
        assert_eq!((memory["MemTotal"], memory["Active_anon"], memory["Swap"]), (8192, 2048, 3072));
        assert_eq!(memory["HugepagesTotal"], 4 << 20);
        let disks = disks(" 8 0 sda 10 1 16 3 5 6 8 4 0 0 0\n 8 1 sdb 0 0 0 0 0 0 0 0 0 0 0\nnonsense\n");
        assert_eq!(disks.len(), 1);
        assert_eq!(disks["sda"], DiskCounters { reads: 10, read_bytes: 8192, writes: 5, written_bytes: 4096 });
        assert_eq!(field("a 1\noom_kill 7\n", "oom_kill"), 7);
    }
}
