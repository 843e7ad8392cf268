//! Devices of the host: the part of LXD's that Berth fills.

use serde::{Deserialize, Serialize};

use crate::or_default;

/// Network cards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesNetwork {
    /// Cards.
    #[serde(deserialize_with = "or_default")]
    pub cards: Vec<ResourcesNetworkCard>,
    /// Number.
    pub total: u64,
}

/// A network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesNetworkCard {
    /// Kernel driver.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// Ports.
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<ResourcesNetworkPort>,
    /// NUMA node.
    pub numa_node: u64,
    /// PCI address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pci_address: String,
    /// USB address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub usb_address: String,
    /// PCI vendor, four hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub vendor_id: String,
    /// PCI product, four hexadecimal digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub product_id: String,
}

/// A port of a network card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesNetworkPort {
    /// Name of the interface.
    pub id: String,
    /// MAC address.
    pub address: String,
    /// Number of the port.
    pub port: u64,
    /// `ethernet` or the like.
    pub protocol: String,
    /// Whether speed and duplex are negotiated.
    pub auto_negotiation: bool,
    /// Whether there is a link.
    pub link_detected: bool,
    /// Mbit/s.
    #[serde(skip_serializing_if = "is_zero")]
    pub link_speed: u64,
    /// `full` or `half`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link_duplex: String,
}

/// Disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesStorage {
    /// Disks.
    #[serde(deserialize_with = "or_default")]
    pub disks: Vec<ResourcesDisk>,
    /// Number of disks and their partitions.
    pub total: u64,
}

/// A disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesDisk {
    /// Name.
    pub id: String,
    /// Major and minor number.
    pub device: String,
    /// Model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// `nvme`, `scsi`, `virtio` and so on.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Read-only.
    pub read_only: bool,
    /// Bytes.
    pub size: u64,
    /// Removable.
    pub removable: bool,
    /// World-wide name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub wwn: String,
    /// NUMA node.
    pub numa_node: u64,
    /// Bytes of a physical block.
    pub block_size: u64,
    /// Serial number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Rotations a minute: 1 if unknown, 0 for solid state.
    pub rpm: u64,
    /// Partitions.
    #[serde(deserialize_with = "or_default")]
    pub partitions: Vec<ResourcesPartition>,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesPartition {
    /// Name.
    pub id: String,
    /// Major and minor number.
    pub device: String,
    /// Read-only.
    pub read_only: bool,
    /// Bytes.
    pub size: u64,
    /// Number.
    pub partition: u64,
}

/// PCI devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesPci {
    /// Devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: Vec<ResourcesPciDevice>,
    /// Number.
    pub total: u64,
}

/// A PCI device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesPciDevice {
    /// Kernel driver.
    pub driver: String,
    /// NUMA node.
    pub numa_node: u64,
    /// Address.
    pub pci_address: String,
    /// Vendor, four hexadecimal digits.
    pub vendor_id: String,
    /// Product, four hexadecimal digits.
    pub product_id: String,
    /// IOMMU group; 0 if there is none.
    pub iommu_group: u64,
}

/// USB devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesUsb {
    /// Devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: Vec<ResourcesUsbDevice>,
    /// Number.
    pub total: u64,
}

/// A USB device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesUsbDevice {
    /// Bus.
    pub bus_address: u64,
    /// Address on the bus.
    pub device_address: u64,
    /// Product.
    pub product: String,
    /// Product, four hexadecimal digits.
    pub product_id: String,
    /// Vendor.
    pub vendor: String,
    /// Vendor, four hexadecimal digits.
    pub vendor_id: String,
    /// Mbit/s.
    pub speed: f64,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesSystem {
    /// UUID.
    pub uuid: String,
    /// Vendor.
    pub vendor: String,
    /// Product.
    pub product: String,
    /// Family.
    pub family: String,
    /// Version.
    pub version: String,
    /// SKU.
    pub sku: String,
    /// Serial number.
    pub serial: String,
    /// `physical`, `virtual-machine` or `container`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Firmware.
    pub firmware: ResourcesFirmware,
    /// Chassis.
    pub chassis: ResourcesChassis,
    /// Motherboard.
    pub motherboard: ResourcesMotherboard,
}

/// Firmware.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesFirmware {
    /// Vendor.
    pub vendor: String,
    /// Date.
    pub date: String,
    /// Version.
    pub version: String,
}

/// Chassis.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesChassis {
    /// Vendor.
    pub vendor: String,
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Serial number.
    pub serial: String,
    /// Version.
    pub version: String,
}

/// Motherboard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourcesMotherboard {
    /// Vendor.
    pub vendor: String,
    /// Product.
    pub product: String,
    /// Serial number.
    pub serial: String,
    /// Version.
    pub version: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
