//! What the daemon hands to `berth-container monitor`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Longest host name the kernel takes (`__NEW_UTS_LEN`).
const HOSTNAME_MAX: usize = 64;
/// Most extra mounts; far above any sensible number of disk devices.
const MOUNTS_MAX: usize = 512;

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The instance's UUID as 32 hexadecimal digits; names its cgroups.
    pub uuid: String,
    /// For messages.
    pub name: String,
    /// Host name inside.
    pub hostname: String,
    /// Its root directory on the host, with ids as inside (0 is 0).
    pub rootfs: PathBuf,
    /// Ids of the host that stand for its own.
    pub idmap: IdMap,
    /// Program and arguments of its first process.
    pub init: Vec<String>,
    /// Environment of init, over what the runtime sets itself (`container`, `PATH`, `TERM`).
    pub env: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
    /// Further mounts, made in this order.
    pub mounts: Vec<Mount>,
    /// May run containers itself.
    pub nesting: bool,
    /// File the console is logged to.
    pub console_log: PathBuf,
}

/// A block of host ids; user and group ids alike. Id 0 inside is `base` outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First host id.
    pub base: u32,
    /// How many.
    pub size: u32,
}

/// Limits; absent means the host's whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Whether it may swap (it may, if absent).
    pub swap: Option<bool>,
    /// CPUs.
    pub cpus: Option<CpuLimit>,
    /// CPU time.
    pub cpu_allowance: Option<CpuAllowance>,
    /// Number of processes and threads.
    pub processes: Option<u64>,
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
    /// Share under contention; 1024 is an ordinary container's, as cgroup v1 counts.
    Shares(u32),
    /// Hard limit.
    Quota {
        /// Microseconds of CPU time in each period.
        quota_us: u64,
        /// Length of the period in microseconds.
        period_us: u64,
    },
}

/// A file or directory of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path on the host.
    pub source: PathBuf,
    /// Path inside; made if it is missing.
    pub target: String,
    /// Not writable inside.
    pub readonly: bool,
    /// With what is mounted below the source.
    pub recursive: bool,
    /// Show the source's ids as they are instead of as nobody's.
    pub shift: bool,
    /// The container does not start without it.
    pub required: bool,
}

impl ContainerSpec {
    /// Refuses what cannot work or would not be confined.
    pub fn check(&self) -> Result<()> {
        check_uuid(&self.uuid)?;
        self.idmap.check()?;
        if self.hostname.is_empty() || self.hostname.len() > HOSTNAME_MAX {
            return Err(spec(format!("the host name must have 1 to {HOSTNAME_MAX} bytes")));
        }
        if self.init.first().is_none_or(|program| !program.starts_with('/')) {
            return Err(spec("the init program must be an absolute path".into()));
        }
        if !self.rootfs.is_absolute() {
            return Err(spec(format!("the root {} is not absolute", self.rootfs.display())));
        }
        if self.mounts.len() > MOUNTS_MAX {
            return Err(spec(format!("{} mounts are over the limit of {MOUNTS_MAX}", self.mounts.len())));
        }
        for mount in &self.mounts {
            if mount.target.trim_matches('/').is_empty() {
                return Err(spec(format!("{} cannot be mounted over the root", mount.source.display())));
            }
        }
        Ok(())
    }
}

impl IdMap {
    /// Host ids below this belong to the host's own users.
    pub const LOWEST: u32 = 65536;

    /// Refuses a map that reaches into the host's own ids.
    pub fn check(self) -> Result<()> {
        if self.base < Self::LOWEST || self.size == 0 || self.base.checked_add(self.size).is_none() {
            return Err(spec(format!(
                "ids {}+{} do not lie between {} and {}",
                self.base,
                self.size,
                Self::LOWEST,
                u32::MAX
            )));
        }
        Ok(())
    }
}

impl std::str::FromStr for IdMap {
    type Err = Error;

    /// Reads `BASE:SIZE`.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once(':').and_then(|(base, size)| Some((base.parse().ok()?, size.parse().ok()?)));
        let (base, size) = parsed.ok_or_else(|| spec(format!("{text:?} is not BASE:SIZE")))?;
        let map = Self { base, size };
        map.check()?;
        Ok(map)
    }
}

/// Refuses what is not 32 hexadecimal digits, for it becomes part of paths.
pub(crate) fn check_uuid(uuid: &str) -> Result<()> {
    if uuid.len() == 32 && uuid.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(spec(format!("the UUID {uuid:?} is not 32 hexadecimal digits")))
}

fn spec(text: String) -> Error {
    Error::Spec(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_into_the_hosts_own_ids_are_refused() {
        for text in ["0:65536", "65535:1", "100000:0", "4294967295:2", "x:1", "100000"] {
            assert!(text.parse::<IdMap>().is_err(), "{text}");
        }
        assert_eq!("100000:65536".parse::<IdMap>().unwrap(), IdMap { base: 100_000, size: 65536 });
    }

    #[test]
    fn a_uuid_cannot_leave_its_directory() {
        assert!(check_uuid("../../../../../../../../../../xx").is_err());
        assert!(check_uuid("0123456789abcdef0123456789abcdef").is_ok());
    }
}
