//! Networks.

use serde::{Deserialize, Serialize};

use crate::{Config, or_default};

/// A managed network, or a link of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Name.
    pub name: String,
    /// `bridge`, `physical`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// URLs of the objects that use it.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
    /// Whether the server made it.
    pub managed: bool,
    /// `Created`, `Pending`, `Errored`, `Unknown`, ...; empty if not managed.
    pub status: String,
    /// Cluster members; `none` without a cluster.
    #[serde(deserialize_with = "or_default")]
    pub locations: Vec<String>,
}

/// A new network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworksPost {
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Name.
    pub name: String,
    /// Kind; `bridge` if empty.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What of a network can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkPut {
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
}

impl From<Network> for NetworkPut {
    fn from(network: Network) -> Self {
        Self { config: network.config, description: network.description }
    }
}

/// A new name of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkPost {
    /// New name.
    pub name: String,
}

/// A DHCP lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkLease {
    /// Name of the instance.
    pub hostname: String,
    /// MAC address.
    pub hwaddr: String,
    /// Address.
    pub address: String,
    /// `static`, `dynamic` or `gateway`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Cluster member.
    pub location: String,
}

/// Live state of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkState {
    /// Addresses.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<NetworkStateAddress>,
    /// Counters.
    pub counters: NetworkStateCounters,
    /// MAC address.
    pub hwaddr: String,
    /// Largest packet.
    pub mtu: i64,
    /// `up` or `down`.
    pub state: String,
    /// `broadcast`, `loopback`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Only for a bond.
    pub bond: Option<NetworkStateBond>,
    /// Only for a bridge.
    pub bridge: Option<NetworkStateBridge>,
    /// Only for a VLAN.
    pub vlan: Option<NetworkStateVlan>,
    /// Only for OVN.
    pub ovn: Option<NetworkStateOvn>,
}

/// An address of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStateAddress {
    /// `inet` or `inet6`.
    pub family: String,
    /// Address.
    pub address: String,
    /// Prefix length.
    pub netmask: String,
    /// `local`, `link` or `global`.
    pub scope: String,
}

/// Counters of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStateCounters {
    /// Bytes received.
    pub bytes_received: i64,
    /// Bytes sent.
    pub bytes_sent: i64,
    /// Packets received.
    pub packets_received: i64,
    /// Packets sent.
    pub packets_sent: i64,
}

/// State of a bond.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStateBond {
    /// Mode.
    pub mode: String,
    /// Policy of the transmit hash.
    pub transmit_policy: String,
    /// Milliseconds before a link counts as up.
    pub up_delay: u64,
    /// Milliseconds before a link counts as down.
    pub down_delay: u64,
    /// Milliseconds between link checks.
    pub mii_frequency: u64,
    /// Link state.
    pub mii_state: String,
    /// Links in the bond.
    #[serde(deserialize_with = "or_default")]
    pub lower_devices: Vec<String>,
}

/// State of a bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStateBridge {
    /// Bridge id.
    pub id: String,
    /// Whether spanning tree is on.
    pub stp: bool,
    /// Forward delay.
    pub forward_delay: u64,
    /// Default VLAN.
    pub vlan_default: u64,
    /// Whether VLANs are filtered.
    pub vlan_filtering: bool,
    /// Links in the bridge.
    #[serde(deserialize_with = "or_default")]
    pub upper_devices: Vec<String>,
}

/// State of a VLAN.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStateVlan {
    /// Link below.
    pub lower_device: String,
    /// VLAN id.
    pub vid: u64,
}

/// State of an OVN network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkStateOvn {
    /// Chassis.
    pub chassis: String,
}
