//! What the daemon hands to `berth-container monitor`.

mod device;
mod limits;
mod proxy;

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_supervisor::handshake::FdIndex;
use serde::{Deserialize, Serialize};

pub use device::{Device, Mount, Node, NodeKind, NodeSource, Propagation};
pub use limits::{CpuAllowance, CpuLimit, Limits, MemoryLimit, Rlimit};
pub use proxy::{Address, Proxy, Side, SocketOwner};

use crate::error::{Error, Result};

/// Longest host name the kernel takes (`__NEW_UTS_LEN`).
const HOSTNAME_MAX: usize = 64;
/// Most devices; far above any sensible number.
const DEVICES_MAX: usize = 512;

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
    /// Limits of each of its processes by name, as in `nofile` (getrlimit(2)).
    pub rlimits: BTreeMap<String, Rlimit>,
    /// Its devices by name.
    pub devices: BTreeMap<String, Device>,
    /// Its proxies by name.
    pub proxies: BTreeMap<String, Proxy>,
    /// Kernel settings of its namespaces, as in `net.ipv4.ip_forward`.
    pub sysctls: BTreeMap<String, String>,
    /// May run containers itself.
    pub nesting: bool,
    /// File the console is logged to.
    pub console_log: PathBuf,
    /// File with the [`Templates`](crate::templates::Templates) to be written into the root, as JSON.
    #[serde(default)]
    pub templates: Option<FdIndex>,
}

/// A block of host ids; user and group ids alike. Id 0 inside is `base` outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// First host id.
    pub base: u32,
    /// How many.
    pub size: u32,
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
        if self.devices.len() + self.proxies.len() > DEVICES_MAX {
            return Err(spec(format!("{} devices are over the limit of {DEVICES_MAX}", self.devices.len())));
        }
        for (name, proxy) in &self.proxies {
            proxy.check().map_err(|reason| spec(format!("device \"{name}\": {reason}")))?;
        }
        for (name, device) in &self.devices {
            device.check().map_err(|reason| spec(format!("device \"{name}\": {reason}")))?;
        }
        Ok(())
    }
}

impl IdMap {
    /// Host ids below this belong to the host's own users.
    pub const LOWEST: u32 = 65536;

    /// The host's id for `id` inside.
    pub fn host(self, id: u32) -> Option<u32> {
        (id < self.size).then(|| self.base + id)
    }

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
