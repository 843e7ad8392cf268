//! The server itself: `/1.0`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::or_default;

/// What everybody may know of the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerUntrusted {
    /// Features beyond the first API.
    #[serde(deserialize_with = "or_default")]
    pub api_extensions: Vec<String>,
    /// `stable`.
    pub api_status: String,
    /// `1.0`.
    pub api_version: String,
    /// `trusted` or `untrusted`: whether the server knows the caller.
    pub auth: String,
    /// Whether it only serves public images.
    pub public: bool,
    /// Ways to authenticate.
    #[serde(deserialize_with = "or_default")]
    pub auth_methods: Vec<String>,
}

/// The server as its users see it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Server configuration; empty for restricted users.
    #[serde(deserialize_with = "or_default")]
    pub config: Map<String, Value>,
    /// Features beyond the first API.
    #[serde(deserialize_with = "or_default")]
    pub api_extensions: Vec<String>,
    /// `stable`.
    pub api_status: String,
    /// `1.0`.
    pub api_version: String,
    /// `trusted` or `untrusted`.
    pub auth: String,
    /// Whether it only serves public images.
    pub public: bool,
    /// Ways to authenticate.
    #[serde(deserialize_with = "or_default")]
    pub auth_methods: Vec<String>,
    /// Host and software.
    #[serde(deserialize_with = "or_default")]
    pub environment: Environment,
}

/// Host and software of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// Addresses it listens on.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    /// Architectures it runs.
    #[serde(deserialize_with = "or_default")]
    pub architectures: Vec<String>,
    /// PEM certificate of the server.
    pub certificate: String,
    /// SHA-256 of the certificate, hex.
    pub certificate_fingerprint: String,
    /// Instance drivers, separated by ` | `.
    pub driver: String,
    /// Versions of the drivers, in the same order.
    pub driver_version: String,
    /// Firewall driver.
    pub firewall: String,
    /// `Linux`.
    pub kernel: String,
    /// Architecture of the kernel.
    pub kernel_architecture: String,
    /// Kernel features and whether they are there (`"true"`).
    #[serde(deserialize_with = "or_default")]
    pub kernel_features: BTreeMap<String, String>,
    /// Kernel release.
    pub kernel_version: String,
    /// Features of liblxc; empty in Berth.
    #[serde(deserialize_with = "or_default")]
    pub lxc_features: BTreeMap<String, String>,
    /// Distribution of the host.
    pub os_name: String,
    /// Version of the distribution.
    pub os_version: String,
    /// Project the request used.
    pub project: String,
    /// Software: LXD clients test for `lxd`.
    pub server: String,
    /// Whether it is a cluster member.
    pub server_clustered: bool,
    /// Role in event delivery.
    pub server_event_mode: String,
    /// Host name, or member name in a cluster.
    pub server_name: String,
    /// Process of the daemon.
    pub server_pid: i64,
    /// Version of the LXD API that it keeps.
    pub server_version: String,
    /// Storage drivers in use, separated by ` | `.
    pub storage: String,
    /// Versions of the storage drivers, in the same order.
    pub storage_version: String,
    /// Storage drivers that could be used.
    #[serde(deserialize_with = "or_default")]
    pub storage_supported_drivers: Vec<StorageDriverInfo>,
    /// *Berth:* version of Berth.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub berth_version: String,
}

/// A storage driver. Go's field names, capitals and all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct StorageDriverInfo {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Whether its data is not on this host.
    pub remote: bool,
}

/// What of the server can be changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerPut {
    /// Server configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Map<String, Value>,
}
