//! Disks.

use std::path::PathBuf;

use berth_containers::spec::Propagation;

use super::{Device, DiskLimits, Keys};
use crate::model::Kind;
use crate::values::parse_size;

/// `type=disk path=/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDisk {
    /// Storage pool.
    pub pool: String,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Limits, of virtual machines only.
    pub limits: DiskLimits,
}

/// `type=disk source=... path=/inside`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// What it holds.
    pub source: DiskSource,
    /// Absolute path inside.
    pub path: String,
    /// No writing.
    pub readonly: bool,
    /// With the mounts below it.
    pub recursive: bool,
    /// How later mounts spread.
    pub propagation: Propagation,
    /// Ids of the host's files are those inside.
    pub shift: bool,
    /// The instance does not start without the source.
    pub required: bool,
}

/// What a disk holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// An absolute path on the host.
    Path(PathBuf),
    /// A custom volume.
    Volume {
        /// Its pool.
        pool: String,
        /// Its name.
        name: String,
    },
}

pub(super) fn parse(keys: &Keys<'_>, kind: Option<Kind>) -> Result<Device, String> {
    let path = keys.get("path").ok_or("the key \"path\" is missing; it is where the disk appears inside")?;
    if path == "/" {
        keys.only(&["path", "pool", "size", "limits.read", "limits.write", "limits.max"])?;
        let pool = keys.get("pool").ok_or("the root disk needs a pool; say pool=default")?.to_owned();
        let limits = DiskLimits::parse(|key| keys.get(key))?;
        if kind == Some(Kind::Container) && limits != DiskLimits::default() {
            return Err("limits of disks are for virtual machines only in this version; unset them".to_owned());
        }
        return Ok(Device::Root(RootDisk { pool, size: keys.parsed("size", parse_size)?, limits }));
    }
    keys.only(&["path", "source", "pool", "readonly", "recursive", "propagation", "shift", "required"])?;
    if kind == Some(Kind::VirtualMachine) {
        return Err("paths of the host in virtual machines are not supported by this version; remove it".to_owned());
    }
    if path.split('/').any(|part| part == "..") {
        return Err("\"path\" may not hold \"..\"".to_owned());
    }
    let source = source(keys)?;
    // A volume's files have the ids that containers see.
    let shift = keys.flag("shift", matches!(source, DiskSource::Volume { .. }))?;
    Ok(Device::Disk(Disk {
        source,
        path: format!("/{}", path.trim_start_matches('/')),
        readonly: keys.flag("readonly", false)?,
        recursive: keys.flag("recursive", false)?,
        propagation: keys.parsed("propagation", propagation)?.unwrap_or_default(),
        shift,
        required: keys.flag("required", true)?,
    }))
}

fn source(keys: &Keys<'_>) -> Result<DiskSource, String> {
    let source = keys.get("source").ok_or("the key \"source\" is missing; it is a path on the host or a volume")?;
    match keys.get("pool") {
        Some(pool) if source.starts_with('/') => {
            Err(format!("\"source\" is a volume of the pool \"{pool}\", not a path; or leave \"pool\" out"))
        }
        Some(pool) => Ok(DiskSource::Volume { pool: pool.to_owned(), name: source.to_owned() }),
        None if source.starts_with('/') => Ok(DiskSource::Path(source.into())),
        None => Err("\"source\" must be an absolute path on the host, or a volume and \"pool\" its pool".to_owned()),
    }
}

/// With or without the `r` for mounts below, which `recursive` decides here.
fn propagation(word: &str) -> Result<Propagation, String> {
    Ok(match word {
        "private" | "rprivate" => Propagation::Private,
        "shared" | "rshared" => Propagation::Shared,
        "slave" | "rslave" => Propagation::Slave,
        "unbindable" | "runbindable" => Propagation::Unbindable,
        _ => {
            return Err(format!(
                "\"{word}\" is none of: private, shared, slave, unbindable, with or without an r before"
            ));
        }
    })
}
