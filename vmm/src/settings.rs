//! What of a machine's devices can be changed while it runs.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use berth_devices::block::BlockLimits;
use berth_devices::net::NetLimits;
use berth_devices::rate::Limit;
use serde::{Deserialize, Serialize};

/// New settings of devices, by their ids. A device that is not named stays as it is; one that the machine has not got comes
/// with its next start. With any change the guest is told of images that have grown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Disks.
    pub disks: BTreeMap<String, DiskSettings>,
    /// Network devices.
    pub nics: BTreeMap<String, NicSettings>,
}

/// Settings of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSettings {
    /// Reads.
    pub read: Rate,
    /// Writes, discards and zeroing.
    pub write: Rate,
}

/// Most that may happen in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Bytes.
    pub bytes: Option<NonZeroU64>,
    /// Operations.
    pub operations: Option<NonZeroU64>,
}

/// Settings of a network device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicSettings {
    /// Bytes a second to the guest, at most.
    pub ingress: Option<NonZeroU64>,
    /// Bytes a second from the guest, at most.
    pub egress: Option<NonZeroU64>,
}

impl From<Rate> for Limit {
    fn from(rate: Rate) -> Self {
        Self { bytes: rate.bytes, operations: rate.operations }
    }
}

impl DiskSettings {
    /// Its limits, as the device takes them.
    pub fn limits(&self) -> BlockLimits {
        BlockLimits { read: self.read.into(), write: self.write.into() }
    }
}

impl NicSettings {
    /// Its limits, as the device takes them.
    pub fn limits(&self) -> NetLimits {
        NetLimits { ingress: self.ingress, egress: self.egress }
    }
}
