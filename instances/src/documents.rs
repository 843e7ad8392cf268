//! Saved state: the documents this crate keeps in the store, and their keys.

use berth_store::Key;
use berth_store::doc::Document;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::model::{Config, Devices, Kind};

/// How far an instance has come into being.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// Its volume is being filled. A daemon that finds this at its start undoes it.
    Creating,
    /// It exists.
    Ready,
    /// It is being removed. A daemon that finds this at its start goes on with it.
    Deleting,
}

/// `inst/<project>/<name>`: what is desired.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct InstanceDoc {
    pub uuid: Uuid,
    pub kind: Kind,
    pub architecture: String,
    pub description: String,
    pub config: Config,
    pub devices: Devices,
    pub profiles: Vec<String>,
    pub ephemeral: bool,
    pub created_at: Timestamp,
    /// Pool that holds the root volume, whatever the devices say later.
    pub pool: String,
    /// Name of the root volume. What replaces the whole content (a restore, a move) makes a new volume and changes this.
    pub volume: Uuid,
    pub phase: Phase,
}

impl Document for InstanceDoc {
    const KIND: &'static str = "instance";
    const VERSION: u32 = 2;

    fn upgrade(_version: u32, mut value: Value) -> Result<Value, String> {
        // Version 1 called the volume like the instance.
        value["volume"] = value["uuid"].clone();
        Ok(value)
    }
}

/// `snap/<uuid of the instance>/<name>`: an instance as it was. There is one only if its volume is whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotDoc {
    pub pool: String,
    pub volume: Uuid,
    pub created_at: Timestamp,
    /// When it is deleted by itself.
    pub expires_at: Option<Timestamp>,
    pub architecture: String,
    pub description: String,
    pub config: Config,
    pub devices: Devices,
    pub profiles: Vec<String>,
    pub ephemeral: bool,
    pub last_used_at: Option<Timestamp>,
    /// The volatile keys, for those who look; restoring does not bring them back.
    pub volatile: Config,
}

impl Document for SnapshotDoc {
    const KIND: &'static str = "snapshot";
    const VERSION: u32 = 1;
}

/// `waste/<name of the volume>`: a volume that no other document speaks of, because it is being filled or removed. A
/// daemon that finds this at its start removes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WasteDoc {
    pub pool: String,
    pub purpose: Purpose,
    /// The instance that was paused while the volume was filled.
    pub paused: Option<Uuid>,
}

/// What a volume is for: [`berth_storage::VolumeKind`] as it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Purpose {
    Container,
    VirtualMachine,
    ContainerSnapshot,
    VirtualMachineSnapshot,
}

impl Document for WasteDoc {
    const KIND: &'static str = "waste";
    const VERSION: u32 = 1;
}

/// `backup/<uuid of the instance>/<name>`: an archive of an instance in a file of the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BackupDoc {
    /// Name of the file.
    pub file: Uuid,
    pub created_at: Timestamp,
    /// When it is deleted by itself.
    pub expires_at: Option<Timestamp>,
    /// Whether the snapshots were left out.
    pub instance_only: bool,
    /// Whether the file is whole. A daemon that finds one at its start that is not removes it.
    pub complete: bool,
}

impl Document for BackupDoc {
    const KIND: &'static str = "backup";
    const VERSION: u32 = 1;
}

/// `vola/<uuid>`: what Berth remembers of an instance. Apart from the instance itself so that a start does not
/// change the document that carries the ETag.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct VolatileDoc {
    pub values: Config,
    pub last_used_at: Option<Timestamp>,
    /// The run state in its volume.
    pub kept: Kept,
    /// What is to follow the end of its present run, if that has been asked for.
    pub then: Then,
}

/// What follows the end of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Then {
    /// Nothing, until somebody starts it.
    #[default]
    Rest,
    /// It is started again.
    Restart,
    /// It is started again with the host.
    ComeBack,
}

/// A run state from which an instance goes on when it is started next. Nothing of it has run since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    /// None; what there is in the volume counts for nothing.
    #[default]
    Nothing,
    /// It was saved when the instance stopped.
    Own,
    /// It is that of the warm image from which the instance was made.
    Anothers,
}

impl Document for VolatileDoc {
    const KIND: &'static str = "volatile state";
    const VERSION: u32 = 3;

    fn upgrade(version: u32, mut value: Value) -> Result<Value, String> {
        if version < 2 {
            // Version 1 knew states of the instance itself only, and its first form none.
            let own = value["stateful"] == true;
            value["kept"] = serde_json::json!(if own { Kept::Own } else { Kept::Nothing });
        }
        // Until version 2, a daemon that was killed forgot what was to follow.
        value["then"] = serde_json::json!(Then::Rest);
        Ok(value)
    }
}

/// `warm/<name of the volume>`: a virtual machine that was booted from an image and saved when it was ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WarmDoc {
    /// The image.
    pub fingerprint: String,
    pub pool: String,
    pub shape: Shape,
    /// By which programs: others may build the machine otherwise.
    pub programs: String,
    pub created_at: Timestamp,
}

/// What machines must have in common to go on from the same state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub vcpus: u8,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of the root disk.
    pub disk: u64,
    /// MTU of each network interface, if it is given.
    pub nics: Vec<Option<u32>>,
}

impl Document for WarmDoc {
    const KIND: &'static str = "warm image";
    const VERSION: u32 = 1;
}

/// `ix/...`: a claim on something of which there is only one; the value tells who holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub instance: Uuid,
}

impl Document for Claim {
    const KIND: &'static str = "claim";
    const VERSION: u32 = 1;
}

/// `profile/<project>/<name>`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ProfileDoc {
    pub description: String,
    pub config: Config,
    pub devices: Devices,
}

impl Document for ProfileDoc {
    const KIND: &'static str = "profile";
    const VERSION: u32 = 1;
}

/// `project/<name>`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ProjectDoc {
    pub description: String,
    pub config: Config,
}

impl Document for ProjectDoc {
    const KIND: &'static str = "project";
    const VERSION: u32 = 1;
}

pub(crate) fn instances_key() -> Key {
    Key::new(&["inst"])
}

pub(crate) fn instance_key(project: &str, name: &str) -> Key {
    Key::new(&["inst", project, name])
}

pub(crate) fn snapshots_key(instance: Uuid) -> Key {
    Key::new(&["snap", &instance.simple().to_string()])
}

pub(crate) fn snapshot_key(instance: Uuid, name: &str) -> Key {
    Key::new(&["snap", &instance.simple().to_string(), name])
}

pub(crate) fn waste_key(volume: Option<Uuid>) -> Key {
    match volume {
        Some(volume) => Key::new(&["waste", &volume.simple().to_string()]),
        None => Key::new(&["waste"]),
    }
}

pub(crate) fn all_backups_key() -> Key {
    Key::new(&["backup"])
}

pub(crate) fn backups_key(instance: Uuid) -> Key {
    Key::new(&["backup", &instance.simple().to_string()])
}

pub(crate) fn backup_key(instance: Uuid, name: &str) -> Key {
    Key::new(&["backup", &instance.simple().to_string(), name])
}

pub(crate) fn warm_key(volume: Option<Uuid>) -> Key {
    match volume {
        Some(volume) => Key::new(&["warm", &volume.simple().to_string()]),
        None => Key::new(&["warm"]),
    }
}

pub(crate) fn volatile_key(uuid: Uuid) -> Key {
    Key::new(&["vola", &uuid.simple().to_string()])
}

pub(crate) fn uuid_key(uuid: Uuid) -> Key {
    Key::new(&["ix", "uuid", &uuid.simple().to_string()])
}

pub(crate) fn idmap_key(slot: u32) -> Key {
    Key::new(&["ix", "idmap", &slot.to_string()])
}

pub(crate) fn vsock_key(cid: u32) -> Key {
    Key::new(&["ix", "vsock", &cid.to_string()])
}

pub(crate) fn profiles_key(project: &str) -> Key {
    Key::new(&["profile", project])
}

pub(crate) fn profile_key(project: &str, name: &str) -> Key {
    Key::new(&["profile", project, name])
}

pub(crate) fn projects_key() -> Key {
    Key::new(&["project"])
}

pub(crate) fn project_key(name: &str) -> Key {
    Key::new(&["project", name])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn run_states_of_the_first_version_are_the_instances_own() {
        let store = berth_store::mem::MemStore::new();
        let key = volatile_key(Uuid::new_v4());
        for (stateful, kept) in [(None, Kept::Nothing), (Some(false), Kept::Nothing), (Some(true), Kept::Own)] {
            let mut old = serde_json::json!({"v": 1, "values": {}, "last_used_at": null});
            if let Some(stateful) = stateful {
                old["stateful"] = stateful.into();
            }
            berth_store::Store::txn(&store, berth_store::Txn::new().put(key.clone(), old.to_string())).await.unwrap();
            let read = berth_store::doc::get::<VolatileDoc>(&store, &key).await.unwrap().unwrap();
            assert_eq!((read.doc.kept, read.doc.then), (kept, Then::Rest));
        }
    }

    #[tokio::test]
    async fn instances_of_the_first_version_are_read() {
        let store = berth_store::mem::MemStore::new();
        let uuid = Uuid::new_v4();
        let old = serde_json::json!({
            "v": 1, "uuid": uuid, "kind": "container", "architecture": "x86_64", "description": "", "config": {},
            "devices": {}, "profiles": [], "ephemeral": false, "created_at": "2026-01-01T00:00:00Z", "pool": "default",
            "phase": "ready",
        });
        let key = instance_key("default", "c1");
        berth_store::Store::txn(&store, berth_store::Txn::new().put(key.clone(), old.to_string())).await.unwrap();
        let read = berth_store::doc::get::<InstanceDoc>(&store, &key).await.unwrap().unwrap();
        assert_eq!((read.doc.volume, read.doc.phase), (uuid, Phase::Ready));
    }
}
