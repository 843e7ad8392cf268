//! `backup/index.yaml`, the first member of a backup, and `backup.yaml` beside the content, in LXD's form.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_saphyr::{Budget, Options};

use crate::wire::{Failure, JobResult};

/// Largest `index.yaml` or `backup.yaml`: hundreds of snapshots with cloud-init data each.
pub const INDEX_MAX: u64 = 4 << 20;
/// Most snapshots in a backup.
pub const SNAPSHOTS_MAX: usize = 4096;
/// Most scalars, lists and maps in the text.
const EVENTS_MAX: usize = 1 << 20;
/// Deepest nesting.
const DEPTH_MAX: usize = 20;
/// Go's zero time: unknown, or never.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// A map of strings.
pub type Map = BTreeMap<String, String>;

/// Whether a backup is one of a container or of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BackupKind {
    /// A container.
    Container,
    /// A virtual machine.
    VirtualMachine,
}

impl BackupKind {
    /// LXD's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::VirtualMachine => "virtual-machine",
        }
    }
}

/// What a backup holds, for whoever restores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Name of the instance.
    pub name: String,
    /// Its kind.
    pub kind: BackupKind,
    /// Pool it was on.
    pub pool: String,
    /// The instance.
    pub instance: Entry,
    /// Its snapshots.
    pub snapshots: Vec<Entry>,
}

/// The whole of `index.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Name of the instance.
    #[serde(default)]
    pub name: String,
    /// Driver of the pool.
    #[serde(default)]
    pub backend: String,
    /// Name of the pool.
    #[serde(default)]
    pub pool: String,
    /// Names of the snapshots.
    #[serde(default, deserialize_with = "or_default")]
    pub snapshots: Vec<String>,
    /// Whether the content is in the driver's own form.
    #[serde(default, deserialize_with = "or_default")]
    pub optimized: bool,
    /// Whether that has a header.
    #[serde(default, deserialize_with = "or_default")]
    pub optimized_header: bool,
    /// `container` or `virtual-machine`; absent in old ones of containers.
    #[serde(default, rename = "type", deserialize_with = "or_default")]
    pub kind: Option<BackupKind>,
    /// What `backup.yaml` holds too; absent in those of LXD before 5.0.1.
    #[serde(default)]
    pub config: Option<Contents>,
}

/// The whole of `backup.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The instance, under its old name whatever its kind; later versions say `instance`.
    #[serde(alias = "instance")]
    pub container: Entry,
    /// Its snapshots.
    #[serde(default, deserialize_with = "or_default")]
    pub snapshots: Vec<Entry>,
    /// The pool.
    #[serde(default)]
    pub pool: Option<Pool>,
    /// The profiles of the instance.
    #[serde(default, deserialize_with = "or_default")]
    pub profiles: Vec<Profile>,
    /// The volume.
    #[serde(default)]
    pub volume: Option<Volume>,
    /// The volumes of the snapshots.
    #[serde(default, deserialize_with = "or_default")]
    pub volume_snapshots: Vec<VolumeSnapshot>,
}

/// An instance or a snapshot. What is only read back by LXD has no meaning here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Snapshot: when it is deleted by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Architecture in the kernel's words.
    #[serde(deserialize_with = "or_default")]
    pub architecture: String,
    /// Own configuration with the volatile keys.
    #[serde(deserialize_with = "flat")]
    pub config: Map,
    /// Own devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: BTreeMap<String, Map>,
    /// Whether it is deleted when it stops.
    #[serde(deserialize_with = "or_default")]
    pub ephemeral: bool,
    /// Profiles in their order.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// Whether the run state is kept.
    #[serde(deserialize_with = "or_default")]
    pub stateful: bool,
    /// Free text.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// When it was made, in RFC 3339.
    #[serde(deserialize_with = "or_default")]
    pub created_at: String,
    /// Configuration with that of the profiles.
    #[serde(deserialize_with = "flat")]
    pub expanded_config: Map,
    /// Devices with those of the profiles.
    #[serde(deserialize_with = "or_default")]
    pub expanded_devices: BTreeMap<String, Map>,
    /// Name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Whether it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The same as a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// When it was last started, in RFC 3339.
    #[serde(deserialize_with = "or_default")]
    pub last_used_at: String,
    /// Cluster member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Kind of the instance.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<BackupKind>,
    /// Project of the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
}

/// A pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// Name.
    pub name: String,
    /// Driver.
    pub driver: String,
    /// Free text.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Configuration.
    #[serde(deserialize_with = "flat")]
    pub config: Map,
}

/// A profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// Name.
    pub name: String,
    /// Free text.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Configuration.
    #[serde(deserialize_with = "flat")]
    pub config: Map,
    /// Devices.
    #[serde(deserialize_with = "or_default")]
    pub devices: BTreeMap<String, Map>,
}

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    /// Name, that of the instance.
    pub name: String,
    /// Type, that of the instance.
    #[serde(rename = "type")]
    pub kind: String,
    /// `filesystem` or `block`.
    pub content_type: String,
    /// Configuration.
    #[serde(deserialize_with = "flat")]
    pub config: Map,
    /// Cluster member.
    pub location: String,
    /// Project.
    pub project: String,
}

/// A snapshot of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeSnapshot {
    /// Name.
    pub name: String,
    /// `filesystem` or `block`.
    pub content_type: String,
    /// Configuration.
    #[serde(deserialize_with = "flat")]
    pub config: Map,
    /// When it is deleted by itself.
    pub expires_at: String,
}

/// Nothing where something is expected counts as absent.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

fn flat<'de, D: Deserializer<'de>>(from: D) -> Result<Map, D::Error> {
    let map = Option::<BTreeMap<String, Option<String>>>::deserialize(from)?.unwrap_or_default();
    Ok(map.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect())
}

/// As text.
pub fn write<T: Serialize>(value: &T) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|e| format!("the description of the backup cannot be written: {e}"))
}

/// Parses what somebody else wrote.
pub fn read<T: for<'de> Deserialize<'de>>(name: &str, text: &[u8]) -> JobResult<T> {
    let bad = |reason: String| Failure::invalid(format!("{name} of the backup cannot be used: {reason}"));
    let text = std::str::from_utf8(text).map_err(|_| bad("it is not UTF-8 text".to_owned()))?;
    serde_saphyr::from_str_with_options(text, options()).map_err(|e| bad(e.to_string()))
}

fn options() -> Options {
    let mut budget = Budget::default();
    // Anchors make much of little, and nobody writes them here.
    budget.max_aliases = 0;
    budget.max_anchors = 0;
    budget.max_events = EVENTS_MAX;
    budget.max_depth = DEPTH_MAX;
    let mut options = Options::default();
    options.budget = Some(budget);
    options.no_schema = false;
    options
}

impl Description {
    /// Puts together what the two files say.
    pub fn of(index: Index, contents: Contents) -> JobResult<Self> {
        if index.optimized && index.backend != "dir" {
            return Err(Failure::invalid(format!(
                "the backup is in a form of its own of the storage driver {}; make it without --optimized-storage",
                index.backend.escape_debug()
            )));
        }
        if index.snapshots.len() > SNAPSHOTS_MAX {
            return Err(Failure::invalid(format!("the backup holds more than {SNAPSHOTS_MAX} snapshots")));
        }
        let mut told: BTreeMap<String, Entry> = contents
            .snapshots
            .into_iter()
            .map(|entry| (entry.name.rsplit('/').next().unwrap_or_default().to_owned(), entry))
            .collect();
        let snapshots = index.snapshots.into_iter().map(|name| {
            let entry = told.remove(&name).ok_or_else(|| {
                let name = name.escape_debug();
                Failure::invalid(format!("the backup tells nothing of its snapshot \"{name}\", or names it twice"))
            })?;
            Ok(Entry { name, ..entry }.lean())
        });
        Ok(Self {
            name: index.name,
            kind: index.kind.or(contents.container.kind).unwrap_or(BackupKind::Container),
            pool: index.pool,
            snapshots: snapshots.collect::<JobResult<_>>()?,
            instance: contents.container.lean(),
        })
    }
}

impl Entry {
    /// Without what follows from the rest.
    fn lean(self) -> Self {
        Self { expanded_config: Map::new(), expanded_devices: BTreeMap::new(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INDEX: &str = "name: c1\nbackend: dir\npool: local\nsnapshots:\n- s0\noptimized: false\n\
        optimized_header: false\ntype: container\nconfig:\n  container:\n    architecture: x86_64\n    config:\n      \
        user.x: \"2\"\n      user.y: 3\n    devices: {}\n    ephemeral: false\n    profiles:\n    - default\n    \
        created_at: 2026-11-24T12:18:37.503490146Z\n    name: c1\n    status: Stopped\n    status_code: 102\n    \
        type: container\n  snapshots:\n  - expires_at: 0001-01-01T00:00:00Z\n    config: {}\n    name: c1/s0\n    \
        size: -1\n  pool: null\n";

    fn described(text: &str) -> JobResult<Description> {
        let mut index: Index = read("index.yaml", text.as_bytes())?;
        let contents = index.config.take().ok_or_else(|| Failure::invalid("no config"))?;
        Description::of(index, contents)
    }

    #[test]
    fn an_index_of_lxd_is_read() {
        let description = described(INDEX).expect("read");
        assert_eq!((description.name.as_str(), description.pool.as_str()), ("c1", "local"));
        assert_eq!(
            description.instance.config,
            Map::from([("user.x".into(), "2".into()), ("user.y".into(), "3".into())])
        );
        assert_eq!(description.instance.created_at, "2026-11-24T12:18:37.503490146Z");
        assert_eq!(description.snapshots[0].name, "s0");
        assert_eq!(description.snapshots[0].expires_at.as_deref(), Some(NEVER));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (from, to, why) in [
            ("backend: dir", "backend: zfs", ""),
            ("optimized: false", "optimized: true", ""),
            ("- s0\n", "- s0\n- s1\n", "nothing of its snapshot \"s1\""),
            ("- s0\n", "- s0\n- s0\n", "twice"),
            ("type: container\nconfig", "type: jail\nconfig", "index.yaml"),
            ("name: c1\n", "name: &a c1\nother: *a\n", "index.yaml"),
        ] {
            let answer = described(&INDEX.replacen(from, to, 1));
            match why {
                "" => assert!(answer.is_ok(), "{to}: {answer:?}"),
                why => assert!(answer.as_ref().is_err_and(|e| e.message.contains(why)), "{to}: {answer:?}"),
            }
        }
        let optimized = INDEX.replace("optimized: false", "optimized: true").replace("backend: dir", "backend: zfs");
        assert!(described(&optimized).is_err_and(|e| e.message.contains("--optimized-storage")));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(lines in proptest::collection::vec("[ ]{0,4}(name|config|container|snapshots|- )?:? ?[\\[\\]{}&*!|>'\"a-z0-9]{0,8}", 0..20)) {
            let _ = described(&lines.join("\n"));
        }

        #[test]
        fn what_is_written_is_read_again(config in proptest::collection::btree_map("[a-z.]{1,10}", "[ -~\n\t]{0,40}", 0..10)) {
            let entry = Entry { config, name: "c1".into(), created_at: NEVER.into(), ..Entry::default() };
            let text = write(&entry).expect("yaml");
            let again: Entry = read("backup.yaml", text.as_bytes()).expect(&text);
            prop_assert_eq!(again, entry);
        }
    }
}
