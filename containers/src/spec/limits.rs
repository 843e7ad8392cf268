//! What a container may use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Limits; absent means the host's whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory.
    pub memory: Option<MemoryLimit>,
    /// Whether it may swap (it may, if absent).
    pub swap: Option<bool>,
    /// How readily it is kept out of swap, 0 to 10 (the default).
    pub swap_priority: Option<u8>,
    /// CPUs.
    pub cpus: Option<CpuLimit>,
    /// CPU time.
    pub cpu_allowance: Option<CpuAllowance>,
    /// Who comes first among containers of equal allowance, 0 to 10 (the default).
    pub cpu_priority: Option<u8>,
    /// Number of processes and threads.
    pub processes: Option<u64>,
    /// Share of the disks' time under contention, 0 to 10; 5 is an ordinary container's.
    pub disk_priority: Option<u8>,
    /// Bytes of huge pages by their size, as in `2MB`.
    pub hugepages: BTreeMap<String, u64>,
}

/// How much memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryLimit {
    /// Never more.
    Hard(u64),
    /// More as long as the host has it to spare.
    Soft(u64),
}

impl MemoryLimit {
    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        let (Self::Hard(bytes) | Self::Soft(bytes)) = self;
        bytes
    }
}

/// Which CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuLimit {
    /// So many, chosen among those with the fewest containers.
    Count(u32),
    /// These, as in `0-2,4`.
    Set(String),
}

/// How much CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuAllowance {
    /// Share under contention; 100 is an ordinary container's.
    Percent(u32),
    /// Hard limit.
    Quota {
        /// Microseconds of CPU time in each period.
        quota_us: u64,
        /// Length of the period in microseconds.
        period_us: u64,
    },
}

/// A limit of each process; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// What a process begins with.
    pub soft: Option<u64>,
    /// As far as it may raise that itself.
    pub hard: Option<u64>,
}
