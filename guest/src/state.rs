//! What a guest tells of itself.

mod detail;
mod netlink;

use std::{collections::BTreeMap, fs, io};

use crate::protocol::{GuestState, Interface};

/// Clock ticks a second in `/proc/stat`; part of the kernel's interface and 100 on all supported architectures.
const USER_HZ: u64 = 100;

/// Interfaces of the calling thread's network namespace, with addresses and counters.
///
/// Asks the kernel over netlink: unlike `/sys/class/net` and `/proc/net`, which show the namespace they were mounted
/// in or the process leader's, a netlink socket belongs to the namespace of the thread that makes it.
pub fn network() -> io::Result<BTreeMap<String, Interface>> {
    netlink::interfaces()
}

/// State of the whole machine; for the agent of a virtual machine. What cannot be read is left at its default.
pub fn guest() -> GuestState {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory(&meminfo);
    let disk_usage = rustix::fs::statvfs("/").map_or(0, |s| s.f_blocks.saturating_sub(s.f_bfree) * s.f_frsize);
    GuestState {
        cpu_ns: cpu_ns(&fs::read_to_string("/proc/stat").unwrap_or_default()),
        memory_usage: memory.total.saturating_sub(memory.available),
        memory_peak: 0,
        memory_total: memory.total,
        swap_usage: memory.swap_total.saturating_sub(memory.swap_free),
        processes: processes(),
        disk_usage,
        network: network().unwrap_or_default(),
        os: os(),
        detail: detail::read(&meminfo),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    total: u64,
    available: u64,
    swap_total: u64,
    swap_free: u64,
}

fn memory(meminfo: &str) -> Memory {
    let mut memory = Memory::default();
    for line in meminfo.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let kib: u64 = value.trim().trim_end_matches("kB").trim_end().parse().unwrap_or(0);
        let bytes = kib.saturating_mul(1024);
        match key {
            "MemTotal" => memory.total = bytes,
            "MemAvailable" => memory.available = bytes,
            "SwapTotal" => memory.swap_total = bytes,
            "SwapFree" => memory.swap_free = bytes,
            _ => {}
        }
    }
    memory
}

/// Busy time of all CPUs: user, nice, system, irq, softirq and steal of the first line.
fn cpu_ns(stat: &str) -> u64 {
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix("cpu ")) else { return 0 };
    let fields: Vec<u64> = line.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|&i| fields.get(i)).sum();
    ticks.saturating_mul(1_000_000_000 / USER_HZ)
}

fn processes() -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let is_pid = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
    entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_pid)).count() as u64
}

fn os() -> BTreeMap<String, String> {
    let mut os = BTreeMap::new();
    let uname = rustix::system::uname();
    os.insert("kernel_version".into(), uname.release().to_string_lossy().into_owned());
    os.insert("hostname".into(), uname.nodename().to_string_lossy().into_owned());
    let release = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    for (key, value) in release.as_deref().unwrap_or_default().lines().filter_map(|line| line.split_once('=')) {
        let value = value.trim().trim_matches(['"', '\'']).to_owned();
        match key {
            "NAME" => os.insert("os".into(), value),
            "VERSION_ID" => os.insert("os_version".into(), value),
            _ => None,
        };
    }
    os
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_parsed() {
        let text = "MemTotal:        2031212 kB\nMemFree: 1 kB\nMemAvailable:    1031212 kB\nSwapTotal: 8 kB\nSwapFree: 4 kB\n";
        let memory = memory(text);
        assert_eq!(memory.total, 2_031_212 * 1024);
        assert_eq!(memory.available, 1_031_212 * 1024);
        assert_eq!(memory.swap_total - memory.swap_free, 4096);
    }

    #[test]
    fn idle_time_is_no_use_of_the_cpu() {
        assert_eq!(cpu_ns("cpu  100 0 50 9999 777 1 2 3 0 0\ncpu0 1 1 1 1\n"), 156 * 10_000_000);
        assert_eq!(cpu_ns(""), 0);
    }

    #[test]
    fn this_machine_has_a_state() {
        let state = guest();
        assert!(state.processes > 0 && state.memory_total > 0 && state.cpu_ns > 0);
        assert!(state.os.contains_key("kernel_version"));
        assert!(state.network.contains_key("lo"));
    }
}
