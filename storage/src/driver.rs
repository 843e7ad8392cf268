//! What a kind of pool has to do, and which kinds there are.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::btrfs::BtrfsDriver;
use crate::config::Config;
use crate::copy::Job;
use crate::dir::DirDriver;
use crate::error::StorageError;
use crate::layout::Layout;
use crate::reaper::Reaper;
use crate::volume::VolumeKind;

/// Space of a pool, in bytes and in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Bytes in use.
    pub used: u64,
    /// Bytes in all.
    pub total: u64,
    /// Inodes in use.
    pub inodes_used: u64,
    /// Inodes in all; 0 where they are not counted.
    pub inodes_total: u64,
}

/// A driver looks after one pool.
///
/// Called by [`crate::Pools`], on blocking threads, with names that were checked. `create` comes once and `open` once at
/// each later start, before all else; `destroy` is the last call, and may be the only one, about a pool of which a
/// process that died made or removed a part. Calls about different volumes may come at the same
/// time; calls about the same one do not, except that `commit` and `rename` must never replace what is there. Every
/// call either does its work or leaves things as they were.
pub(crate) trait Driver: Debug + Send + Sync {
    /// Where the volumes are.
    fn layout(&self) -> &Layout;
    /// Makes the pool.
    fn create(&self) -> Result<(), StorageError>;
    /// Takes the pool up and removes what an earlier process left half-done.
    fn open(&self) -> Result<(), StorageError>;
    /// Makes the open pool, which was configured as `before`, what this driver was made for.
    fn change(&self, before: &Config) -> Result<(), StorageError>;
    /// Removes the pool, which holds no volume, or what there is of it.
    fn destroy(&self) -> Result<(), StorageError>;
    /// Makes an empty directory that can become a volume.
    fn prepare(&self, kind: VolumeKind) -> Result<PathBuf, StorageError>;
    /// Makes a directory that can become a volume with the content of another volume of this pool, durably.
    fn duplicate(&self, kind: VolumeKind, name: &str, job: &Job) -> Result<PathBuf, StorageError>;
    /// Makes a prepared directory the volume of this name, durably.
    fn commit(&self, pending: &Path, kind: VolumeKind, name: &str) -> Result<PathBuf, StorageError> {
        self.layout().commit(pending, kind, name)
    }
    /// Gives up a prepared directory. Must be quick: it may be called from a task.
    fn discard(&self, pending: &Path) {
        self.layout().discard(pending);
    }
    /// Where a volume is, if there is one.
    fn find(&self, kind: VolumeKind, name: &str) -> Result<Option<PathBuf>, StorageError> {
        self.layout().find(kind, name)
    }
    /// Names of all volumes of a kind.
    fn volumes(&self, kind: VolumeKind) -> Result<Vec<String>, StorageError> {
        self.layout().volumes(kind)
    }
    /// Gives a volume another name.
    fn rename(&self, kind: VolumeKind, old: &str, new: &str) -> Result<(), StorageError> {
        self.layout().rename(kind, old, new)
    }
    /// Removes a volume: its name is free at once, its space soon after.
    fn delete(&self, kind: VolumeKind, name: &str) -> Result<(), StorageError> {
        self.layout().delete(kind, name)
    }
    /// Sets how many bytes a volume may occupy, as far as the driver can limit that.
    fn limit(&self, kind: VolumeKind, name: &str, bytes: Option<u64>) -> Result<(), StorageError>;
    /// Bytes that a volume occupies.
    fn usage(&self, kind: VolumeKind, name: &str) -> Result<u64, StorageError>;
    /// Space of the pool.
    fn resources(&self) -> Result<Resources, StorageError> {
        self.layout().resources()
    }
}

/// Which pool a driver looks after.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// Its name.
    pub pool: String,
    /// What tells it from all pools that ever were.
    pub id: Uuid,
    /// The daemon's directory.
    pub base: PathBuf,
    /// Removes in the background.
    pub reaper: Reaper,
}

impl Site {
    /// The directory that is kept for the pool.
    pub(crate) fn own_root(&self) -> PathBuf {
        self.base.join("storage-pools").join(&self.pool)
    }
}

/// The drivers. A new one is added here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DriverKind {
    Dir,
    Btrfs,
}

/// Names of all drivers, the one that is always at hand first.
pub const DRIVERS: [&str; 2] = ["dir", "btrfs"];

impl DriverKind {
    /// The driver of that name.
    pub(crate) fn named(name: &str) -> Result<DriverKind, StorageError> {
        match name {
            "dir" => Ok(DriverKind::Dir),
            "btrfs" => Ok(DriverKind::Btrfs),
            _ => Err(StorageError::UnknownDriver { driver: name.to_owned(), known: DRIVERS.join(", ") }),
        }
    }

    /// Checks the configuration of a new pool and puts in what it leaves out.
    pub(crate) fn complete(self, site: &Site, config: &mut Config) -> Result<(), StorageError> {
        match self {
            DriverKind::Dir => DirDriver::complete(site, config),
            DriverKind::Btrfs => BtrfsDriver::complete(site, config),
        }
    }

    /// Checks a configuration's keys and values.
    pub(crate) fn check(self, pool: &str, config: &Config) -> Result<(), StorageError> {
        match self {
            DriverKind::Dir => DirDriver::check(pool, config),
            DriverKind::Btrfs => BtrfsDriver::check(pool, config),
        }
    }

    /// The driver of one pool.
    pub(crate) fn driver(self, site: Site, config: &Config) -> Result<Arc<dyn Driver>, StorageError> {
        Ok(match self {
            DriverKind::Dir => Arc::new(DirDriver::new(site, config)),
            DriverKind::Btrfs => Arc::new(BtrfsDriver::new(site, config)?),
        })
    }
}
