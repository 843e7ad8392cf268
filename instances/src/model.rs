//! The instance as the rest of Berth sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use berth_guest::protocol::{GuestState, Hello};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::backups::Restored;
use crate::cloud_init;

/// Configuration keys and their values.
pub type Config = BTreeMap<String, String>;
/// Devices by name, each with its keys.
pub type Devices = BTreeMap<String, Config>;

/// Kind of instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// System container.
    Container,
    /// KVM virtual machine.
    VirtualMachine,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container => "container",
            Self::VirtualMachine => "virtual-machine",
        })
    }
}

/// What an instance is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It does not run.
    Stopped,
    /// It is being started.
    Starting,
    /// It runs.
    Running,
    /// It was asked to stop.
    Stopping,
    /// It is paused.
    Frozen,
}

/// One instance at one moment.
#[derive(Debug, Clone)]
pub struct Instance {
    /// Project it belongs to.
    pub project: String,
    /// Name, unique in the project.
    pub name: String,
    /// Stays the same for life, through renames.
    pub uuid: Uuid,
    /// Kind.
    pub kind: Kind,
    /// Architecture, as in `uname -m`.
    pub architecture: String,
    /// Free text.
    pub description: String,
    /// Own configuration, without the volatile keys.
    pub config: Config,
    /// Own devices.
    pub devices: Devices,
    /// Names of the profiles applied, in order.
    pub profiles: Vec<String>,
    /// Deleted when it stops.
    pub ephemeral: bool,
    /// Its run state was saved, and it goes on from there at its next start.
    pub stateful: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last started.
    pub last_used_at: Option<Timestamp>,
    /// Pool that holds the root volume.
    pub pool: String,
    /// Name of the root volume in its pool.
    pub volume: String,
    /// Its snapshots, the oldest first.
    pub snapshots: Arc<Vec<Snapshot>>,
    /// Configuration after the profiles have been applied, without the volatile keys.
    pub expanded_config: Config,
    /// Devices after the profiles have been applied.
    pub expanded_devices: Devices,
    /// `volatile.*` keys: what Berth remembers of the instance.
    pub volatile: Config,
    /// Revision of the document, for [`crate::Instances::update`].
    pub revision: u64,
    /// What it is doing.
    pub status: Status,
    /// Host process id of the container's init or of the VMM while it runs.
    pub pid: Option<u32>,
    /// Virtual machine: what its agent said, once it is up.
    pub agent: Option<Hello>,
}

impl Instance {
    /// Own configuration with the volatile keys.
    pub fn full_config(&self) -> Config {
        merge(&self.config, &self.volatile)
    }

    /// Expanded configuration with the volatile keys.
    pub fn full_expanded_config(&self) -> Config {
        merge(&self.expanded_config, &self.volatile)
    }

    /// Which instance it is, as its cloud-init is told; `None` before its first start.
    pub fn meta_data(&self) -> Option<String> {
        cloud_init::meta_data(&self.volatile, &self.name, &self.expanded_config)
    }

    /// Whether programs can be run in it now.
    pub fn is_ready(&self) -> bool {
        self.status == Status::Running && (self.kind == Kind::Container || self.agent.is_some())
    }

    /// Whether it has a process.
    pub fn is_running(&self) -> bool {
        matches!(self.status, Status::Running | Status::Frozen | Status::Stopping)
    }

    /// One of its snapshots.
    pub fn snapshot(&self, name: &str) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.name == name)
    }
}

/// An instance as it was at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Name, unique among those of the instance.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it is deleted by itself.
    pub expires_at: Option<Timestamp>,
    /// Architecture, as in `uname -m`.
    pub architecture: String,
    /// Free text.
    pub description: String,
    /// Own configuration, with the volatile keys.
    pub config: Config,
    /// Own devices.
    pub devices: Devices,
    /// Profiles, in order.
    pub profiles: Vec<String>,
    /// Whether the instance was deleted when it stopped.
    pub ephemeral: bool,
    /// When the instance had last been started.
    pub last_used_at: Option<Timestamp>,
    /// Pool that holds its volume.
    pub pool: String,
    /// Configuration with that of the profiles as they are now.
    pub expanded_config: Config,
    /// Devices with those of the profiles as they are now.
    pub expanded_devices: Devices,
}

/// An archive of an instance that the daemon keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Name, unique among those of the instance.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it is deleted by itself.
    pub expires_at: Option<Timestamp>,
    /// Whether the snapshots were left out.
    pub instance_only: bool,
}

/// A backup to be made.
#[derive(Debug, Clone, Default)]
pub struct NewBackup {
    /// Its name; `None`: the next one of `backup0`, `backup1`, ….
    pub name: Option<String>,
    /// When it is deleted by itself.
    pub expires_at: Option<Timestamp>,
    /// Leave the snapshots out.
    pub instance_only: bool,
}

/// A snapshot to be made.
#[derive(Debug, Clone, Default)]
pub struct NewSnapshot {
    /// Its name; `None`: by `snapshots.pattern`.
    pub name: Option<String>,
    /// When it is deleted by itself: `Some(None)` for never, `None`: by `snapshots.expiry`.
    pub expires_at: Option<Option<Timestamp>>,
    /// Together with the run state.
    pub stateful: bool,
}

/// Where an instance is to go; what is absent stays as it is.
#[derive(Debug, Clone, Default)]
pub struct MoveRequest {
    /// New name.
    pub name: Option<String>,
    /// New project.
    pub project: Option<String>,
    /// New pool.
    pub pool: Option<String>,
    /// Leave the snapshots behind, which deletes them.
    pub instance_only: bool,
}

fn merge(base: &Config, over: &Config) -> Config {
    base.iter().chain(over).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Where the root file system of a new instance comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// An image of the project, by its full fingerprint.
    Image {
        /// Fingerprint.
        fingerprint: String,
    },
    /// The same for a virtual machine that goes on from a run of the image that was saved when it was ready; the first one
    /// of its configuration makes that run.
    Warm {
        /// Fingerprint.
        fingerprint: String,
    },
    /// Another instance, or a snapshot of it. Of its configuration, devices and profiles comes along what the request does
    /// not say otherwise; its kind is kept.
    Copy(Original),
    /// What was in a backup; see [`crate::Instances::import`].
    Backup(Arc<Restored>),
    /// Empty.
    None,
}

/// What an instance is a copy of.
#[derive(Debug, Clone)]
pub struct Original {
    /// Project of the source.
    pub project: String,
    /// The source.
    pub instance: String,
    /// Its snapshot to be copied, instead of itself.
    pub snapshot: Option<String>,
    /// Leave its snapshots out.
    pub instance_only: bool,
    /// The image it was made from; filled in when the source is looked at.
    pub(crate) base_image: Option<String>,
}

impl Original {
    /// A copy of an instance with its snapshots.
    pub fn new(project: String, instance: String) -> Self {
        Self { project, instance, snapshot: None, instance_only: false, base_image: None }
    }
}

/// What is to be created.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// Name; see [`crate::Instances::free_name`].
    pub name: String,
    /// Kind.
    pub kind: Kind,
    /// Source of the root file system.
    pub source: Source,
    /// Own configuration.
    pub config: Config,
    /// Own devices.
    pub devices: Devices,
    /// Profiles; `None` means those of the image, else `default`.
    pub profiles: Option<Vec<String>>,
    /// Free text.
    pub description: String,
    /// Delete it when it stops.
    pub ephemeral: bool,
}

/// A run of an image from which new virtual machines can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmImage {
    /// Pool it is in.
    pub pool: String,
    /// CPUs of such a machine.
    pub vcpus: u8,
    /// Bytes of its memory.
    pub memory: u64,
    /// Bytes of its root disk.
    pub disk: u64,
    /// Number of its network interfaces.
    pub nics: usize,
    /// When the run was saved.
    pub created_at: Timestamp,
}

/// New values of everything that may be changed.
#[derive(Debug, Clone)]
pub struct Update {
    /// Own configuration; `volatile.*` keys are ignored.
    pub config: Config,
    /// Own devices.
    pub devices: Devices,
    /// Profiles.
    pub profiles: Vec<String>,
    /// Free text.
    pub description: String,
    /// Delete it when it stops.
    pub ephemeral: bool,
}

/// What to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartFrom {
    /// The kernel. A saved run state is discarded.
    Boot,
    /// The saved run state, which must be there.
    Saved,
}

/// How to stop.
#[derive(Debug, Clone, Copy)]
pub struct StopRequest {
    /// Save the run state instead of asking the guest.
    pub stateful: bool,
    /// End it at once instead of asking the guest.
    pub force: bool,
    /// How long the guest may take; `None`: as long as it wants.
    pub timeout: Option<std::time::Duration>,
}

/// What an instance uses at one moment.
#[derive(Debug, Clone)]
pub struct StateReport {
    /// The instance at that moment.
    pub instance: std::sync::Arc<Instance>,
    /// What the guest tells of itself; `None` if it does not run or its agent is not up.
    pub guest: Option<GuestState>,
    /// Bytes used by the root volume, if the pool can tell.
    pub root_usage: Option<u64>,
    /// Host link of each NIC by its name inside.
    pub host_names: BTreeMap<String, String>,
}

/// Something that happened to an object, in LXD's words.
#[derive(Debug, Clone)]
pub struct LifecycleEvent {
    /// `instance-started` and the like.
    pub action: &'static str,
    /// Project of the object.
    pub project: String,
    /// Name of the instance.
    pub name: String,
    /// More about it.
    pub context: BTreeMap<String, String>,
}

/// What needs the administrator's eye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// An instance did not start with the daemon.
    Autostart,
    /// Something that failed could not be undone.
    Leftover,
}

/// Something about an instance that needs the administrator.
#[derive(Debug, Clone)]
pub struct Trouble {
    /// What it is.
    pub kind: TroubleKind,
    /// Project of the instance.
    pub project: String,
    /// Its name.
    pub name: String,
    /// What happened.
    pub message: String,
}
