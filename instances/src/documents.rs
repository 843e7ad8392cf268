//! Saved state: the documents this crate keeps in the store, and their keys.

use berth_store::Key;
use berth_store::doc::Document;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
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
    /// Pool that holds the root volume; fixed for life, whatever the devices say later.
    pub pool: String,
    pub phase: Phase,
}

impl Document for InstanceDoc {
    const KIND: &'static str = "instance";
    const VERSION: u32 = 1;
}

/// `vola/<uuid>`: what Berth remembers of an instance. Apart from the instance itself so that a start does not
/// change the document that carries the ETag.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct VolatileDoc {
    pub values: Config,
    pub last_used_at: Option<Timestamp>,
    /// Its run state was saved when it stopped, and nothing of it has run since.
    #[serde(default)]
    pub stateful: bool,
}

impl Document for VolatileDoc {
    const KIND: &'static str = "volatile state";
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
