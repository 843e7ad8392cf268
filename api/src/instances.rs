//! Instances: containers and virtual machines.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{Config, Devices, StatusCode, Time, is_false, or_default};
pub use crate::{
    exec::*,
    snapshots::{
        InstanceBackup, InstanceBackupPost, InstanceBackupsPost, InstanceSnapshot, InstanceSnapshotPost,
        InstanceSnapshotPut, InstanceSnapshotsPost,
    },
    state::*,
};

/// Kind of an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum InstanceType {
    /// System container. Also what an absent or empty type means.
    #[default]
    #[serde(rename = "container", alias = "")]
    Container,
    /// Virtual machine.
    #[serde(rename = "virtual-machine")]
    VirtualMachine,
}

impl InstanceType {
    /// The name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::VirtualMachine => "virtual-machine",
        }
    }
}

impl fmt::Display for InstanceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Instance {
    /// Architecture: `x86_64`.
    pub architecture: String,
    /// Own configuration, with `volatile.*` and `image.*`.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Own devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// Whether it is deleted when it stops.
    pub ephemeral: bool,
    /// Profiles in order of application.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// Snapshot to restore; only in requests.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub restore: String,
    /// Whether its run state is saved.
    pub stateful: bool,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// When it was made.
    pub created_at: Time,
    /// Configuration with that of the profiles.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub expanded_config: Config,
    /// Devices with those of the profiles.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub expanded_devices: Devices,
    /// Name.
    pub name: String,
    /// Text of `status_code`.
    pub status: String,
    /// Run state.
    pub status_code: StatusCode,
    /// When it was last started.
    pub last_used_at: Time,
    /// Cluster member; `none` without a cluster.
    pub location: String,
    /// Kind.
    #[serde(rename = "type")]
    pub kind: InstanceType,
    /// Project.
    pub project: String,
}

/// An instance with all that belongs to it (`recursion=2`, or `recursion=1` for one instance).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceFull {
    /// The instance.
    #[serde(flatten)]
    pub instance: Instance,
    /// Backups.
    pub backups: Option<Vec<InstanceBackup>>,
    /// Live state.
    pub state: Option<InstanceState>,
    /// Snapshots.
    pub snapshots: Option<Vec<InstanceSnapshot>>,
}

/// A new instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstancesPost {
    /// Architecture; the host's if empty.
    pub architecture: String,
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// Whether it is deleted when it stops.
    pub ephemeral: bool,
    /// Profiles; `default` if absent, none if empty.
    pub profiles: Option<Vec<String>>,
    /// Not used here; LXD's type has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub restore: String,
    /// Whether run state is copied too.
    pub stateful: bool,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Name; the server makes one up if empty.
    pub name: String,
    /// What it is made from.
    pub source: InstanceSource,
    /// Cloud-like size: `t2.micro`, `c2-m4`.
    pub instance_type: String,
    /// Kind.
    #[serde(rename = "type")]
    pub kind: InstanceType,
}

/// What an instance is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceSource {
    /// `image`, `migration`, `copy` or `none`.
    #[serde(rename = "type")]
    pub kind: String,
    /// PEM certificate of the other server.
    pub certificate: String,
    /// Image by alias.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// Image by fingerprint.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// Image by properties.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    /// URL of the other server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// Secret for a private image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// Protocol of the other server: `lxd` or `simplestreams`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// Fingerprint of the image a migrated instance was made from.
    #[serde(rename = "base-image", skip_serializing_if = "String::is_empty")]
    pub base_image: String,
    /// Berth's own: a virtual machine that goes on from a run of the image that was saved when it was ready.
    #[serde(skip_serializing_if = "is_false")]
    pub warm: bool,
    /// `pull` or `push`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// URL of the source's operation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// Secrets of the source's websockets.
    #[serde(rename = "secrets", deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub websockets: BTreeMap<String, String>,
    /// Instance or `instance/snapshot` to copy.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Whether it is migrated running.
    #[serde(skip_serializing_if = "is_false")]
    pub live: bool,
    /// Leave snapshots out.
    #[serde(skip_serializing_if = "is_false")]
    pub instance_only: bool,
    /// Old name of `instance_only`.
    #[serde(skip_serializing_if = "is_false")]
    pub container_only: bool,
    /// Update an existing copy.
    #[serde(skip_serializing_if = "is_false")]
    pub refresh: bool,
    /// Project of the source.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// Ignore errors from files that change during the copy.
    pub allow_inconsistent: bool,
}

/// A new content for an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceRebuildPost {
    /// What it is made from: `image` or `none`.
    pub source: InstanceSource,
}

/// What of an instance can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstancePut {
    /// Architecture.
    pub architecture: String,
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// Whether it is deleted when it stops.
    pub ephemeral: bool,
    /// Profiles in order of application.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// Snapshot to restore instead of a change.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub restore: String,
    /// Whether run state is restored too.
    pub stateful: bool,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
}

impl From<Instance> for InstancePut {
    fn from(instance: Instance) -> Self {
        Self {
            architecture: instance.architecture,
            config: instance.config,
            devices: instance.devices,
            ephemeral: instance.ephemeral,
            profiles: instance.profiles,
            restore: String::new(),
            stateful: instance.stateful,
            description: instance.description,
        }
    }
}

/// A rename, move or migration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstancePost {
    /// New name.
    pub name: String,
    /// Whether this is a migration, not a rename.
    pub migration: bool,
    /// Whether it is migrated running.
    pub live: bool,
    /// Leave snapshots out.
    pub instance_only: bool,
    /// Old name of `instance_only`.
    pub container_only: bool,
    /// Where it goes in push mode.
    pub target: Option<InstancePostTarget>,
    /// New storage pool.
    pub pool: String,
    /// New project.
    pub project: String,
    /// Ignore errors from files that change during the copy.
    pub allow_inconsistent: bool,
}

/// Target of a migration in push mode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstancePostTarget {
    /// PEM certificate of the target.
    pub certificate: String,
    /// URL of the target's operation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operation: String,
    /// Secrets of the target's websockets.
    #[serde(rename = "secrets", deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub websockets: BTreeMap<String, String>,
}

/// A change of state of all instances of a project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstancesPut {
    /// The change.
    pub state: Option<InstanceStatePut>,
}
