//! Configuration keys of projects.

use crate::keys::closest;
use crate::model::Config;
use crate::values::{parse_bool, parse_size};

/// Form of a value.
enum Form {
    Bool,
    Count,
    Size,
    OneOf(&'static [&'static str]),
    Names,
    Paths,
}

const BLOCK: Form = Form::OneOf(&["block", "allow"]);
const MANAGED: Form = Form::OneOf(&["managed", "allow", "block"]);

/// Every key with its form and its value where it is not set (LXD 5.0, "Project configuration").
const KEYS: &[(&str, Form, &str)] = &[
    ("features.images", Form::Bool, "true"),
    ("features.networks", Form::Bool, "false"),
    ("features.profiles", Form::Bool, "true"),
    ("features.storage.volumes", Form::Bool, "true"),
    ("limits.containers", Form::Count, ""),
    ("limits.cpu", Form::Count, ""),
    ("limits.disk", Form::Size, ""),
    ("limits.instances", Form::Count, ""),
    ("limits.memory", Form::Size, ""),
    ("limits.networks", Form::Count, ""),
    ("limits.processes", Form::Count, ""),
    ("limits.virtual-machines", Form::Count, ""),
    ("restricted", Form::Bool, "false"),
    ("restricted.backups", BLOCK, "block"),
    ("restricted.containers.interception", Form::OneOf(&["block", "allow", "full"]), "block"),
    ("restricted.containers.lowlevel", BLOCK, "block"),
    ("restricted.containers.nesting", BLOCK, "block"),
    ("restricted.containers.privilege", Form::OneOf(&["unprivileged", "isolated", "allow"]), "unprivileged"),
    ("restricted.devices.disk", MANAGED, "managed"),
    ("restricted.devices.disk.paths", Form::Paths, ""),
    ("restricted.devices.gpu", BLOCK, "block"),
    ("restricted.devices.infiniband", BLOCK, "block"),
    ("restricted.devices.nic", MANAGED, "managed"),
    ("restricted.devices.pci", BLOCK, "block"),
    ("restricted.devices.proxy", BLOCK, "block"),
    ("restricted.devices.unix-block", BLOCK, "block"),
    ("restricted.devices.unix-char", BLOCK, "block"),
    ("restricted.devices.unix-hotplug", BLOCK, "block"),
    ("restricted.devices.usb", BLOCK, "block"),
    ("restricted.networks.access", Form::Names, ""),
    ("restricted.snapshots", BLOCK, "block"),
    ("restricted.virtual-machines.lowlevel", BLOCK, "block"),
];

/// Keys of LXD 5.0 that are known and not served yet.
const NOT_YET: &[&str] = &[
    "backups.compression_algorithm",
    "images.auto_update_cached",
    "images.auto_update_interval",
    "images.compression_algorithm",
    "images.default_architecture",
    "images.remote_cache_expiry",
    "restricted.cluster.groups",
    "restricted.cluster.target",
    "restricted.idmap.gid",
    "restricted.idmap.uid",
    "restricted.networks.subnets",
    "restricted.networks.uplinks",
    "restricted.networks.zones",
];

/// A key's value, or what it is where it is not set.
pub(super) fn value<'a>(config: &'a Config, key: &str) -> &'a str {
    let default = || KEYS.iter().find(|(name, ..)| *name == key).map_or("", |(.., default)| *default);
    config.get(key).map(String::as_str).filter(|value| !value.is_empty()).unwrap_or_else(default)
}

/// A boolean key.
pub(super) fn flag(config: &Config, key: &str) -> bool {
    parse_bool(value(config, key)) == Ok(true)
}

/// A list, separated by commas.
pub(super) fn list<'a>(config: &'a Config, key: &str) -> Vec<&'a str> {
    value(config, key).split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
}

/// The limit that a key sets.
pub(super) fn limit(config: &Config, key: &str) -> Option<u64> {
    config.get(key).filter(|value| !value.is_empty()).and_then(|value| parse_size(value).ok())
}

/// Adds the features that a new project has where nothing is said of them.
pub(super) fn complete(config: &mut Config) {
    keep_features(config, &Config::new());
}

/// Adds the features that a project had where nothing is said of them.
pub(super) fn keep_features(config: &mut Config, old: &Config) {
    for (key, ..) in KEYS.iter().filter(|(key, ..)| key.starts_with("features.")) {
        config.entry((*key).to_owned()).or_insert_with(|| value(old, key).to_owned());
    }
}

/// Features that differ.
pub(super) fn changed_features(old: &Config, new: &Config) -> Vec<&'static str> {
    let features = KEYS.iter().map(|(key, ..)| *key).filter(|key| key.starts_with("features."));
    features.filter(|key| flag(old, key) != flag(new, key)).collect()
}

/// Checks a whole configuration; all complaints in one text.
pub(super) fn validate(config: &Config) -> Result<(), String> {
    let complaints: Vec<String> = config.iter().filter_map(|(key, value)| complaint(key, value)).collect();
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
}

fn complaint(key: &str, value: &str) -> Option<String> {
    if key.strip_prefix("user.").is_some_and(|rest| !rest.is_empty()) {
        return None;
    }
    let Some((_, form, _)) = KEYS.iter().find(|(name, ..)| *name == key) else { return Some(unknown(key)) };
    if value.is_empty() {
        return None;
    }
    check(form, value).err().map(|reason| format!("value of \"{key}\": {reason}"))
}

fn unknown(key: &str) -> String {
    if NOT_YET.contains(&key) {
        return format!("key \"{key}\" is not supported by this version of Berth; leave it out");
    }
    match closest(key, KEYS.iter().map(|(name, ..)| *name)) {
        Some(near) => format!("unknown project configuration key \"{key}\"; did you mean \"{near}\"?"),
        None => format!("unknown project configuration key \"{key}\"; own keys begin with \"user.\""),
    }
}

fn check(form: &Form, value: &str) -> Result<(), String> {
    match form {
        Form::Bool => parse_bool(value).map(drop),
        Form::Count => {
            value.parse::<u32>().map(drop).map_err(|_| format!("\"{value}\" is not a whole number from 0 on"))
        }
        Form::Size => parse_size(value).map(drop),
        Form::OneOf(words) if words.contains(&value) => Ok(()),
        Form::OneOf(words) => Err(format!("\"{value}\" is none of {}", words.join(", "))),
        Form::Names => match value.split(',').map(str::trim).find(|name| name.is_empty() || name.contains('/')) {
            None => Ok(()),
            Some(name) => Err(format!("\"{name}\" is no name; separate names by commas")),
        },
        Form::Paths => match value.split(',').map(str::trim).find(|path| !plain_path(path)) {
            None => Ok(()),
            Some(path) => Err(format!("\"{path}\" is not an absolute path without \"..\"")),
        },
    }
}

/// Whether a path is absolute and stays where it points to.
pub(super) fn plain_path(path: &str) -> bool {
    path.starts_with('/') && !path.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn values_have_their_forms() {
        let good = [
            ("features.images", "no"),
            ("limits.instances", "0"),
            ("limits.memory", "2GiB"),
            ("restricted.devices.nic", "allow"),
            ("restricted.devices.disk.paths", "/srv,/data"),
            ("restricted.networks.access", "a, b"),
            ("limits.cpu", ""),
            ("user.x", "y"),
        ];
        assert_eq!(validate(&config(&good)), Ok(()));
        for (key, wrong) in [
            ("features.images", "perhaps"),
            ("limits.instances", "-1"),
            ("limits.instances", "2GiB"),
            ("limits.memory", "50%"),
            ("restricted.devices.nic", "full"),
            ("restricted.devices.disk.paths", "/srv/../etc"),
            ("restricted.networks.access", "a,,b"),
            ("user.", "y"),
        ] {
            assert!(validate(&config(&[(key, wrong)])).is_err(), "{key}={wrong}");
        }
        assert!(unknown("limits.memori").contains("did you mean \"limits.memory\""));
        assert!(unknown("restricted.idmap.uid").contains("not supported by this version"));
    }

    #[test]
    fn what_is_not_set_has_its_default() {
        let mut set = config(&[("features.images", "false"), ("restricted.snapshots", "")]);
        assert_eq!(value(&set, "restricted.snapshots"), "block");
        assert!(!flag(&set, "features.images") && flag(&set, "features.profiles"));
        complete(&mut set);
        assert_eq!((set["features.images"].as_str(), set["features.networks"].as_str()), ("false", "false"));
        assert_eq!(changed_features(&set, &config(&[])), ["features.images"]);
    }
}
