//! What was in a backup, checked.

use berth_images::backup::Description;
use berth_images::backup::format::{BackupKind, Entry};
use jiff::Timestamp;

use super::files::Upload;
use super::index::lasts;
use crate::error::{Error, Result};
use crate::model::{Config, Devices, Kind};
use crate::snapshots::name as names;

/// Architectures of other names that this host runs too.
const COMPATIBLE: &[(&str, &str)] = &[("x86_64", "i686"), ("aarch64", "armv7l")];

/// Key under which LXD keeps how the owners of a container's files are shifted.
const IDMAP: &str = "volatile.last_state.idmap";

/// An instance as a backup tells of it, with the archive.
#[derive(Debug)]
pub struct Restored {
    pub(crate) upload: Upload,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) pool: String,
    pub(crate) architecture: String,
    pub(crate) created_at: Timestamp,
    pub(crate) last_used_at: Option<Timestamp>,
    pub(crate) config: Config,
    /// Of the volatile keys, those that last.
    pub(crate) volatile: Config,
    /// How owners of files were shifted, in LXD's form.
    pub(crate) idmap: String,
    pub(crate) devices: Devices,
    pub(crate) profiles: Vec<String>,
    pub(crate) description: String,
    pub(crate) ephemeral: bool,
    pub(crate) snapshots: Vec<SnapshotPart>,
}

/// A snapshot as a backup tells of it.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotPart {
    pub name: String,
    pub architecture: String,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub config: Config,
    /// How owners of files were shifted, in LXD's form.
    pub idmap: String,
    pub devices: Devices,
    pub profiles: Vec<String>,
    pub description: String,
    pub ephemeral: bool,
}

impl Restored {
    /// What `description` says of the archive `upload`.
    pub(crate) fn of(upload: Upload, description: Description) -> Result<Self> {
        let Description { name, kind, pool, instance, snapshots } = description;
        let architecture = architecture(&instance)?;
        let snapshots = snapshots.into_iter().map(snapshot).collect::<Result<_>>()?;
        let (volatile, config) = instance.config.into_iter().partition(|(key, _)| key.starts_with("volatile."));
        let mut volatile: Config = volatile;
        let idmap = volatile.remove(IDMAP).unwrap_or_default();
        volatile.retain(|key, _| lasts(key) && key != "volatile.uuid");
        Ok(Self {
            upload,
            name,
            kind: match kind {
                BackupKind::Container => Kind::Container,
                BackupKind::VirtualMachine => Kind::VirtualMachine,
            },
            pool,
            architecture,
            created_at: moment(&instance.created_at).unwrap_or_else(Timestamp::now),
            last_used_at: moment(&instance.last_used_at),
            config,
            volatile,
            idmap,
            devices: instance.devices,
            profiles: instance.profiles,
            description: instance.description,
            ephemeral: instance.ephemeral,
            snapshots,
        })
    }

    /// Name of the instance that was backed up.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

fn snapshot(entry: Entry) -> Result<SnapshotPart> {
    names::check(&entry.name).map_err(Error::Invalid)?;
    let architecture = architecture(&entry)?;
    let mut config = entry.config;
    let idmap = config.remove(IDMAP).unwrap_or_default();
    config.retain(|key, _| !key.starts_with("volatile."));
    Ok(SnapshotPart {
        architecture,
        created_at: moment(&entry.created_at).unwrap_or_else(Timestamp::now),
        expires_at: entry.expires_at.as_deref().and_then(moment),
        last_used_at: moment(&entry.last_used_at),
        name: entry.name,
        config,
        idmap,
        devices: entry.devices,
        profiles: entry.profiles,
        description: entry.description,
        ephemeral: entry.ephemeral,
    })
}

/// An absent one is the host's.
fn architecture(entry: &Entry) -> Result<String> {
    let host = std::env::consts::ARCH;
    match entry.architecture.as_str() {
        "" => Ok(host.to_owned()),
        own if own == host || COMPATIBLE.contains(&(host, own)) => Ok(own.to_owned()),
        other => Err(Error::Invalid(format!(
            "the backup is one of the architecture {}, which this {host} host does not run",
            other.escape_debug()
        ))),
    }
}

/// A point in time; `None` for Go's zero time, the beginning of 1970 and what is no time.
fn moment(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().filter(|time| *time > Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_mean_nothing_are_none() {
        for none in ["", "x", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z"] {
            assert_eq!(moment(none), None, "{none}");
        }
        assert!(moment("2026-11-24T12:18:37.503490146+02:00").is_some());
    }

    #[test]
    fn other_architectures_are_refused() {
        let of = |name: &str| architecture(&Entry { architecture: name.to_owned(), ..Entry::default() });
        assert_eq!(of("").unwrap(), std::env::consts::ARCH);
        assert!(of("s390x").unwrap_err().to_string().contains("s390x"));
    }
}
