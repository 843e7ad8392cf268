//! What a backup says of the instance in it, so that LXD and Berth can make it again.

use berth_images::backup::format::{
    BackupKind, Contents, Entry, Index, Map, NEVER, Pool, Profile, Volume, VolumeSnapshot,
};
use jiff::Timestamp;

use crate::model::{Config, Instance, Kind, Snapshot};
use crate::nics::HWADDR;

/// LXD's name and number for an instance that does not run.
const STOPPED: (&str, u16) = ("Stopped", 102);

/// Volatile keys that are part of what an instance is. The others speak of the host it was on.
pub(crate) fn lasts(key: &str) -> bool {
    ["volatile.uuid", "volatile.base_image", crate::cloud_init::INSTANCE_ID, crate::templates::PENDING].contains(&key)
        || key.ends_with(HWADDR)
}

/// The kind as backups have it.
pub(crate) fn kind(kind: Kind) -> BackupKind {
    match kind {
        Kind::Container => BackupKind::Container,
        Kind::VirtualMachine => BackupKind::VirtualMachine,
    }
}

/// Puts the index of an instance together, with its snapshots unless `instance_only`.
pub(crate) fn of(
    instance: &Instance,
    instance_only: bool,
    pool: &berth_storage::Pool,
    profiles: &[&crate::profiles::Profile],
) -> Index {
    let snapshots = if instance_only { &[] } else { instance.snapshots.as_slice() };
    let contents = Contents {
        container: whole(instance),
        snapshots: snapshots.iter().map(|snapshot| part(instance.kind, snapshot)).collect(),
        pool: Some(Pool {
            name: pool.name.clone(),
            driver: pool.driver.clone(),
            description: pool.description.clone(),
            config: Map::new(),
        }),
        profiles: profiles
            .iter()
            .map(|profile| Profile {
                name: profile.name.clone(),
                description: profile.description.clone(),
                config: profile.config.clone(),
                devices: profile.devices.clone(),
            })
            .collect(),
        volume: Some(Volume {
            name: instance.name.clone(),
            kind: kind(instance.kind).as_str().to_owned(),
            content_type: content_type(instance.kind),
            config: Map::new(),
            location: "none".to_owned(),
            project: instance.project.clone(),
        }),
        volume_snapshots: snapshots
            .iter()
            .map(|snapshot| VolumeSnapshot {
                name: snapshot.name.clone(),
                content_type: content_type(instance.kind),
                config: Map::new(),
                expires_at: NEVER.to_owned(),
            })
            .collect(),
    };
    Index {
        name: instance.name.clone(),
        backend: pool.driver.clone(),
        pool: pool.name.clone(),
        snapshots: snapshots.iter().map(|snapshot| snapshot.name.clone()).collect(),
        optimized: false,
        optimized_header: false,
        kind: Some(kind(instance.kind)),
        config: Some(contents),
    }
}

fn content_type(kind: Kind) -> String {
    match kind {
        Kind::Container => "filesystem",
        Kind::VirtualMachine => "block",
    }
    .to_owned()
}

fn time(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

/// Configuration with what lasts of the volatile keys. LXD is told that owners of files are not shifted.
fn config(kind: Kind, own: &Config, volatile: &Config) -> Map {
    let lasting = volatile.iter().filter(|(key, _)| lasts(key));
    let mut config: Map = own
        .iter()
        .filter(|(key, _)| !key.starts_with("volatile."))
        .chain(lasting)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if kind == Kind::Container {
        config.insert("volatile.idmap.base".to_owned(), "0".to_owned());
        config.insert("volatile.last_state.idmap".to_owned(), "[]".to_owned());
    }
    config
}

fn whole(instance: &Instance) -> Entry {
    Entry {
        architecture: instance.architecture.clone(),
        config: config(instance.kind, &instance.config, &instance.volatile),
        devices: instance.devices.clone(),
        ephemeral: instance.ephemeral,
        profiles: instance.profiles.clone(),
        description: instance.description.clone(),
        created_at: instance.created_at.to_string(),
        expanded_config: config(instance.kind, &instance.expanded_config, &instance.volatile),
        expanded_devices: instance.expanded_devices.clone(),
        name: instance.name.clone(),
        status: Some(STOPPED.0.to_owned()),
        status_code: Some(STOPPED.1),
        last_used_at: time(instance.last_used_at),
        location: Some("none".to_owned()),
        kind: Some(kind(instance.kind)),
        project: Some(instance.project.clone()),
        ..Entry::default()
    }
}

fn part(kind: Kind, snapshot: &Snapshot) -> Entry {
    Entry {
        expires_at: Some(time(snapshot.expires_at)),
        architecture: snapshot.architecture.clone(),
        config: config(kind, &snapshot.config, &snapshot.config),
        devices: snapshot.devices.clone(),
        ephemeral: snapshot.ephemeral,
        profiles: snapshot.profiles.clone(),
        description: snapshot.description.clone(),
        created_at: snapshot.created_at.to_string(),
        expanded_config: config(kind, &snapshot.expanded_config, &snapshot.config),
        expanded_devices: snapshot.expanded_devices.clone(),
        name: snapshot.name.clone(),
        last_used_at: time(snapshot.last_used_at),
        ..Entry::default()
    }
}
