//! What is told of an instance's configuration, and what of its changes.

use std::{collections::BTreeSet, sync::Arc};

use axum::extract::ws::Utf8Bytes;
use berth_instances::{Config, Devices, Instance};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

/// Beginnings of the keys that an instance may read.
const READABLE: [&str; 2] = ["user.", "cloud-init."];

/// Kinds of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of a key.
    Config,
    /// Of a device.
    Device,
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "config" => Ok(Self::Config),
            "device" => Ok(Self::Device),
            _ => Err(format!("\"{text}\" isn't a supported event type; the types are config and device")),
        }
    }
}

/// Whether an instance may read this key.
pub fn is_readable(key: &str) -> bool {
    READABLE.iter().any(|beginning| key.starts_with(beginning))
}

/// What it may read.
pub fn readable(config: &Config) -> impl Iterator<Item = (&String, &String)> {
    config.iter().filter(|(key, _)| is_readable(key))
}

/// Its devices, network interfaces with the addresses that were made up for them.
pub fn devices(instance: &Instance) -> Devices {
    let mut devices = instance.expanded_devices.clone();
    for (name, device) in devices.iter_mut().filter(|(_, device)| device.get("type").is_some_and(|t| t == "nic")) {
        if let Some(made_up) = instance.volatile.get(&format!("volatile.{name}.hwaddr")) {
            device.entry("hwaddr".to_owned()).or_insert_with(|| made_up.clone());
        }
    }
    devices
}

/// Tells of changes until the instance stops or nobody listens any more.
pub async fn tell(mut view: watch::Receiver<Arc<Instance>>, kinds: Vec<Kind>, queue: mpsc::Sender<Utf8Bytes>) {
    let mut last = view.borrow_and_update().clone();
    loop {
        tokio::select! {
            changed = view.changed() => if changed.is_err() { return },
            () = queue.closed() => return,
        }
        let now = view.borrow_and_update().clone();
        for event in between(&last, &now, &kinds) {
            // One that does not read is not waited for: it can connect again and read what is so now.
            if queue.try_send(event.to_string().into()).is_err() {
                return;
            }
        }
        if !now.is_running() {
            return;
        }
        last = now;
    }
}

fn between(old: &Instance, new: &Instance, kinds: &[Kind]) -> Vec<Value> {
    let mut events = Vec::new();
    let mut tell = |kind: &str, metadata: Value| {
        events.push(json!({"timestamp": Timestamp::now(), "type": kind, "metadata": metadata}));
    };
    if kinds.contains(&Kind::Config) {
        for (key, old_value, value) in config_changes(&old.expanded_config, &new.expanded_config) {
            tell("config", json!({"key": key, "old_value": old_value, "value": value}));
        }
    }
    if kinds.contains(&Kind::Device) {
        for (action, name, config) in device_changes(&devices(old), &devices(new)) {
            tell("device", json!({"action": action, "name": name, "config": config}));
        }
    }
    events
}

/// Keys with their old and new values, empty where there is none.
fn config_changes<'a>(old: &'a Config, new: &'a Config) -> Vec<(&'a str, &'a str, &'a str)> {
    let keys: BTreeSet<&String> = readable(old).chain(readable(new)).map(|(key, _)| key).collect();
    let value = |config: &'a Config, key: &str| config.get(key).map(String::as_str).unwrap_or_default();
    let changes = keys.into_iter().map(|key| (key.as_str(), value(old, key), value(new, key)));
    changes.filter(|(_, old, new)| old != new).collect()
}

/// What happened to devices, their names, and their configurations: the last ones of those that are gone.
fn device_changes<'a>(old: &'a Devices, new: &'a Devices) -> Vec<(&'static str, &'a str, &'a Config)> {
    let removed = old.iter().filter(|(name, _)| !new.contains_key(*name));
    let removed = removed.map(|(name, config)| ("removed", name.as_str(), config));
    let there = new.iter().filter_map(|(name, config)| match old.get(name) {
        None => Some(("added", name.as_str(), config)),
        Some(before) if before != config => Some(("updated", name.as_str(), config)),
        Some(_) => None,
    });
    removed.chain(there).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_what_an_instance_may_read_is_told() {
        let old = config(&[("user.a", "1"), ("user.b", "2"), ("limits.cpu", "1"), ("cloud-init.user-data", "x")]);
        let new = config(&[("user.b", "3"), ("limits.cpu", "2"), ("cloud-init.user-data", "x"), ("user.c", "4")]);
        assert_eq!(config_changes(&old, &new), [("user.a", "1", ""), ("user.b", "2", "3"), ("user.c", "", "4")]);
        assert!(is_readable("cloud-init.user-data") && !is_readable("volatile.uuid") && !is_readable("users"));
    }

    #[test]
    fn devices_come_change_and_go() {
        let (one, two) = (config(&[("type", "disk")]), config(&[("type", "nic")]));
        let set = |devices: &[(&str, &Config)]| -> Devices {
            devices.iter().map(|(name, config)| ((*name).to_owned(), (*config).clone())).collect()
        };
        let old = set(&[("a", &one), ("b", &one), ("c", &one)]);
        let new = set(&[("b", &two), ("c", &one), ("d", &two)]);
        assert_eq!(device_changes(&old, &new), [("removed", "a", &one), ("updated", "b", &two), ("added", "d", &two)]);
    }
}
