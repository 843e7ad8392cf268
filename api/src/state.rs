//! Live state of instances.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{StatusCode, is_false, or_default};

/// Live state of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceState {
    /// Text of `status_code`.
    pub status: String,
    /// Run state.
    pub status_code: StatusCode,
    /// Disks by device name.
    #[serde(deserialize_with = "or_default")]
    pub disk: BTreeMap<String, InstanceStateDisk>,
    /// Memory.
    pub memory: InstanceStateMemory,
    /// Network interfaces by name inside the instance; `null` when it does not run.
    pub network: Option<BTreeMap<String, InstanceStateNetwork>>,
    /// First process, as the host sees it; 0 when stopped.
    pub pid: i64,
    /// Number of processes; -1 if unknown.
    pub processes: i64,
    /// CPU.
    pub cpu: InstanceStateCpu,
}

/// Usage of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceStateDisk {
    /// Bytes.
    pub usage: i64,
}

/// Usage of CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceStateCpu {
    /// Nanoseconds since start.
    pub usage: i64,
}

/// Usage of memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceStateMemory {
    /// Memory now.
    pub usage: i64,
    /// Memory at the peak.
    pub usage_peak: i64,
    /// Swap now.
    pub swap_usage: i64,
    /// Swap at the peak.
    pub swap_usage_peak: i64,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceStateNetwork {
    /// Addresses.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<InstanceStateNetworkAddress>,
    /// Counters.
    pub counters: InstanceStateNetworkCounters,
    /// MAC address.
    pub hwaddr: String,
    /// Name of the host's end.
    pub host_name: String,
    /// Largest packet.
    pub mtu: i64,
    /// `up` or `down`.
    pub state: String,
    /// `broadcast`, `loopback`, `point-to-point` or `unknown`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// An address of a network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceStateNetworkAddress {
    /// `inet` or `inet6`.
    pub family: String,
    /// Address.
    pub address: String,
    /// Prefix length.
    pub netmask: String,
    /// `local`, `link` or `global`.
    pub scope: String,
}

/// Counters of a network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceStateNetworkCounters {
    /// Bytes received.
    pub bytes_received: i64,
    /// Bytes sent.
    pub bytes_sent: i64,
    /// Packets received.
    pub packets_received: i64,
    /// Packets sent.
    pub packets_sent: i64,
    /// Errors on receipt.
    pub errors_received: i64,
    /// Errors on sending.
    pub errors_sent: i64,
    /// Packets dropped on sending.
    pub packets_dropped_outbound: i64,
    /// Packets dropped on receipt.
    pub packets_dropped_inbound: i64,
}

/// A change of state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceStatePut {
    /// `start`, `stop`, `restart`, `freeze` or `unfreeze`.
    pub action: String,
    /// Seconds to wait for a clean stop; -1 for ever, 0 for the server's default.
    pub timeout: i64,
    /// Do not ask the guest.
    pub force: bool,
    /// Save or restore run state.
    pub stateful: bool,
    /// *Berth:* for `start` and `restart`: the operation ends when the guest is ready for `exec`, not as soon as
    /// the instance runs.
    #[serde(skip_serializing_if = "is_false")]
    pub wait: bool,
}
