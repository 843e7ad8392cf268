//! Storage pools and volumes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Config, Time, is_false, or_default};

/// A storage pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoragePool {
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Name.
    pub name: String,
    /// Driver.
    pub driver: String,
    /// URLs of the objects that use it.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
    /// `Created`, `Pending`, `Errored`, `Unavailable`, ...
    pub status: String,
    /// Cluster members; `none` without a cluster.
    #[serde(deserialize_with = "or_default")]
    pub locations: Vec<String>,
}

/// A new storage pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoragePoolsPost {
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Name.
    pub name: String,
    /// Driver.
    pub driver: String,
}

/// What of a storage pool can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoragePoolPut {
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
}

impl From<StoragePool> for StoragePoolPut {
    fn from(pool: StoragePool) -> Self {
        Self { config: pool.config, description: pool.description }
    }
}

/// A volume of a storage pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolume {
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Snapshot to restore; only in requests.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub restore: String,
    /// Name.
    pub name: String,
    /// `container`, `virtual-machine`, `image` or `custom`.
    #[serde(rename = "type")]
    pub kind: String,
    /// URLs of the objects that use it.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
    /// Cluster member; `none` without a cluster.
    pub location: String,
    /// `filesystem` or `block`.
    pub content_type: String,
    /// Project.
    pub project: String,
    /// When it was made.
    pub created_at: Time,
}

/// A new volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumesPost {
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Not used here; LXD's type has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub restore: String,
    /// Name.
    pub name: String,
    /// `custom`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is made from.
    pub source: StorageVolumeSource,
    /// `filesystem` or `block`.
    pub content_type: String,
}

/// What a volume is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumeSource {
    /// Volume to copy.
    pub name: String,
    /// Empty, `copy` or `migration`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Pool of the source.
    pub pool: String,
    /// PEM certificate of the other server.
    pub certificate: String,
    /// `pull` or `push`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// URL of the source's operation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// Secrets of the source's websockets.
    #[serde(rename = "secrets", deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub websockets: BTreeMap<String, String>,
    /// Leave snapshots out.
    pub volume_only: bool,
    /// Update an existing copy.
    #[serde(skip_serializing_if = "is_false")]
    pub refresh: bool,
    /// Project of the source.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub project: String,
}

/// What of a volume can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumePut {
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Snapshot to restore instead of a change.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub restore: String,
}

/// A rename, move or migration of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumePost {
    /// New name.
    pub name: String,
    /// New pool.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pool: String,
    /// Whether this is a migration.
    pub migration: bool,
    /// Where it goes in push mode.
    pub target: Option<crate::instances::InstancePostTarget>,
    /// Leave snapshots out.
    pub volume_only: bool,
    /// New project.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub project: String,
}

/// Live state of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumeState {
    /// Usage, if the driver can tell.
    pub usage: Option<StorageVolumeStateUsage>,
}

/// Usage of a volume, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageVolumeStateUsage {
    /// Used.
    #[serde(skip_serializing_if = "is_zero")]
    pub used: u64,
    /// Size; -1 or 0 if not limited.
    pub total: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde wants
fn is_zero(value: &u64) -> bool {
    *value == 0
}
