//! Snapshots and backups of instances.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Config, Devices, Time, instances::InstancePostTarget, or_default};

/// A snapshot of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceSnapshot {
    /// Architecture.
    pub architecture: String,
    /// Own configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// When it was made.
    pub created_at: Time,
    /// When it is deleted; zero for never.
    pub expires_at: Time,
    /// Own devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// Whether the instance is ephemeral.
    pub ephemeral: bool,
    /// Configuration with that of the profiles.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub expanded_config: Config,
    /// Devices with those of the profiles.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub expanded_devices: Devices,
    /// When the instance was last used.
    pub last_used_at: Time,
    /// Name without that of the instance.
    pub name: String,
    /// Profiles.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// Whether it holds run state.
    pub stateful: bool,
    /// Bytes; -1 if unknown.
    pub size: i64,
}

/// A new snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceSnapshotsPost {
    /// Name; by `snapshots.pattern` if empty.
    pub name: String,
    /// Save run state too.
    pub stateful: bool,
    /// When it is deleted; by `snapshots.expiry` if absent.
    pub expires_at: Option<Time>,
}

/// A new name or a migration of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceSnapshotPost {
    /// New name.
    pub name: String,
    /// Whether this is a migration.
    pub migration: bool,
    /// Where it goes in push mode.
    pub target: Option<InstancePostTarget>,
    /// Whether it is migrated with run state.
    pub live: bool,
}

/// What of a snapshot can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceSnapshotPut {
    /// When it is deleted.
    pub expires_at: Time,
}

/// A backup of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceBackup {
    /// Name.
    pub name: String,
    /// When it was made.
    pub created_at: Time,
    /// When it is deleted.
    pub expires_at: Time,
    /// Whether snapshots were left out.
    pub instance_only: bool,
    /// Old name of `instance_only`.
    pub container_only: bool,
    /// Whether it is in the storage driver's own form.
    pub optimized_storage: bool,
}

/// A new backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceBackupsPost {
    /// Name.
    pub name: String,
    /// When it is deleted.
    pub expires_at: Time,
    /// Leave snapshots out.
    pub instance_only: bool,
    /// Old name of `instance_only`.
    pub container_only: bool,
    /// Use the storage driver's own form.
    pub optimized_storage: bool,
    /// Compression program.
    pub compression_algorithm: String,
}

/// A new name of a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceBackupPost {
    /// New name.
    pub name: String,
}
