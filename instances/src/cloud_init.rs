//! What an instance's configuration says to the cloud-init in it.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::model::Config;
use crate::values::parse_bool;

/// Names an instance to cloud-init: with another one it does again what it does for a new instance.
pub(crate) const INSTANCE_ID: &str = "volatile.cloud-init.instance-id";
/// Of what the instance's id was made, so that a change gives another one.
const DIGEST: &str = "volatile.cloud-init.digest";

/// As LXD has it where nothing is given.
const NOTHING: &str = "#cloud-config\n{}\n";

/// A key, with the older name that counts if it is not set.
fn value<'a>(config: &'a Config, key: &str) -> Option<&'a str> {
    let set = |name: String| config.get(&name).map(String::as_str).filter(|value| !value.is_empty());
    set(format!("cloud-init.{key}")).or_else(|| set(format!("user.{key}")))
}

/// Whether there is anything to be told, or somebody who waits to be told.
pub(crate) fn is_wanted(config: &Config) -> bool {
    let keys = ["user-data", "vendor-data", "network-config"];
    keys.iter().any(|key| value(config, key).is_some())
        || config.get("user.meta-data").is_some_and(|value| !value.is_empty())
        || image_has_it(config)
}

/// Whether the properties of the image tell of a cloud-init in it: those of images with the variant `cloud`, and of
/// those that can be told by a disk only.
fn image_has_it(config: &Config) -> bool {
    config.get("image.variant").is_some_and(|value| value == "cloud")
        || config.get("image.requirements.cdrom_cloud_init").is_some_and(|value| parse_bool(value) == Ok(true))
}

/// Gives the instance an id if it has none, and another one if it has become another instance (its uuid, as that of a
/// copy, or its name) or is told something else than before.
pub(crate) fn renew(volatile: &mut Config, uuid: Uuid, name: &str, config: &Config) {
    let mut hash = Sha256::new();
    let told = ["user-data", "vendor-data", "network-config"].map(|key| value(config, key).unwrap_or_default());
    let meta = config.get("user.meta-data").map(String::as_str).unwrap_or_default();
    let uuid = uuid.to_string();
    for part in told.into_iter().chain([meta, &uuid, name]) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let digest = hex::encode(hash.finalize());
    if volatile.get(DIGEST) != Some(&digest) || !volatile.contains_key(INSTANCE_ID) {
        volatile.insert(DIGEST.to_owned(), digest);
        volatile.insert(INSTANCE_ID.to_owned(), Uuid::new_v4().to_string());
    }
}

/// Which instance it is; `None` before its first start.
pub(crate) fn meta_data(volatile: &Config, name: &str, config: &Config) -> Option<String> {
    let id = volatile.get(INSTANCE_ID)?;
    let more = config.get("user.meta-data").map(String::as_str).unwrap_or_default();
    Some(format!("instance-id: {id}\nlocal-hostname: {name}\n{more}"))
}

/// The files of the data source NoCloud, by name; `None` if nobody waits for them.
pub(crate) fn files(volatile: &Config, name: &str, config: &Config) -> Option<Vec<(&'static str, String)>> {
    if !is_wanted(config) {
        return None;
    }
    let text = |key: &str| value(config, key).unwrap_or(NOTHING).to_owned();
    let mut files = vec![
        ("meta-data", meta_data(volatile, name, config)?),
        ("user-data", text("user-data")),
        ("vendor-data", text("vendor-data")),
    ];
    // Without one cloud-init configures the first interface for DHCP.
    files.extend(value(config, "network-config").map(|text| ("network-config", text.to_owned())));
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn told(pairs: &[(&str, &str)]) -> Option<Vec<(&'static str, String)>> {
        files(&config(&[(INSTANCE_ID, "id-1")]), "v1", &config(pairs))
    }

    #[test]
    fn nothing_is_made_for_nobody() {
        assert_eq!(told(&[("image.os", "Debian"), ("user.note", "x"), ("cloud-init.user-data", "")]), None);
        for (key, value) in [
            ("image.variant", "cloud"),
            ("image.requirements.cdrom_cloud_init", "true"),
            ("user.user-data", "#cloud-config"),
            ("user.meta-data", "a: b"),
            ("cloud-init.network-config", "version: 2"),
        ] {
            assert!(told(&[(key, value)]).is_some(), "{key}");
        }
    }

    #[test]
    fn the_newer_key_wins_and_defaults_are_there() {
        let files = told(&[("user.user-data", "old"), ("cloud-init.user-data", "new"), ("user.meta-data", "a: b")]);
        let expected = [
            ("meta-data", "instance-id: id-1\nlocal-hostname: v1\na: b".to_owned()),
            ("user-data", "new".to_owned()),
            ("vendor-data", NOTHING.to_owned()),
        ];
        assert_eq!(files.as_deref(), Some(&expected[..]));
    }

    #[test]
    fn the_id_stays_until_something_changes() {
        let (mut volatile, uuid) = (Config::new(), Uuid::from_u128(1));
        let mut id = |uuid: Uuid, name: &str, pairs: &[(&str, &str)]| {
            renew(&mut volatile, uuid, name, &config(pairs));
            volatile[INSTANCE_ID].clone()
        };
        let before = [("user.user-data", "a")];
        let first = id(uuid, "v1", &before);
        assert_eq!(id(uuid, "v1", &before), first);
        // The same under its newer name is the same.
        assert_eq!(id(uuid, "v1", &[("cloud-init.user-data", "a"), ("limits.cpu", "2")]), first);
        let second = id(uuid, "v1", &[("user.user-data", "b")]);
        let third = id(uuid, "v1", &before);
        assert!(first != second && second != third && first != third, "a change back is a change too");
        let fourth = id(uuid, "v2", &before);
        let fifth = id(Uuid::from_u128(2), "v2", &before);
        assert!(third != fourth && fourth != fifth);
    }
}
