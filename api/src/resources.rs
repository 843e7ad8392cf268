//! Resources of the host: the part of LXD's that Berth fills. What it does not know is left empty.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    hardware::{ResourcesNetwork, ResourcesPci, ResourcesStorage, ResourcesSystem, ResourcesUsb},
    or_default,
};

/// Resources of the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CPUs.
    pub cpu: ResourcesCpu,
    /// Memory.
    pub memory: ResourcesMemory,
    /// GPUs.
    pub gpu: ResourcesCards,
    /// Network cards.
    pub network: ResourcesNetwork,
    /// Disks.
    pub storage: ResourcesStorage,
    /// USB devices.
    pub usb: ResourcesUsb,
    /// PCI devices.
    pub pci: ResourcesPci,
    /// The machine.
    pub system: ResourcesSystem,
}

/// CPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesCpu {
    /// Architecture.
    pub architecture: String,
    /// Sockets.
    #[serde(deserialize_with = "or_default")]
    pub sockets: Vec<ResourcesCpuSocket>,
    /// Number of threads.
    pub total: u64,
}

/// A CPU socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesCpuSocket {
    /// Model.
    pub name: String,
    /// Vendor.
    pub vendor: String,
    /// Number.
    pub socket: u64,
    /// Cores.
    #[serde(deserialize_with = "or_default")]
    pub cores: Vec<ResourcesCpuCore>,
}

/// A core.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesCpuCore {
    /// Number.
    pub core: u64,
    /// Die.
    pub die: u64,
    /// Threads.
    #[serde(deserialize_with = "or_default")]
    pub threads: Vec<ResourcesCpuThread>,
    /// MHz.
    pub frequency: u64,
}

/// A thread.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesCpuThread {
    /// Number on the host.
    pub id: i64,
    /// NUMA node.
    pub numa_node: u64,
    /// Number in the core.
    pub thread: u64,
    /// Whether it is on.
    pub online: bool,
    /// Whether the scheduler leaves it alone.
    pub isolated: bool,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesMemory {
    /// NUMA nodes.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<ResourcesMemoryNode>,
    /// Huge pages in all.
    pub hugepages_total: u64,
    /// Huge pages in use.
    pub hugepages_used: u64,
    /// Size of a huge page.
    pub hugepages_size: u64,
    /// In use.
    pub used: u64,
    /// In all.
    pub total: u64,
}

/// Memory of a NUMA node, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesMemoryNode {
    /// Number.
    pub numa_node: u64,
    /// Huge pages in use.
    pub hugepages_used: u64,
    /// Huge pages in all.
    pub hugepages_total: u64,
    /// In use.
    pub used: u64,
    /// In all.
    pub total: u64,
}

/// GPUs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesCards {
    /// Cards.
    #[serde(deserialize_with = "or_default")]
    pub cards: Vec<Value>,
    /// Number.
    pub total: u64,
}

/// Resources of a storage pool: `/1.0/storage-pools/{name}/resources`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesStoragePool {
    /// Bytes.
    pub space: ResourcesUsage,
    /// Inodes.
    pub inodes: ResourcesUsage,
}

/// Part in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesUsage {
    /// In use.
    pub used: u64,
    /// In all.
    pub total: u64,
}
