//! What a kind of pool has to do, and which kinds there are.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::copy::Job;
use crate::dir::DirDriver;
use crate::error::StorageError;
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
/// each later start, before all else; `destroy` is the last call. Calls about different volumes may come at the same
/// time; calls about the same one do not, except that `commit` and `rename` must never replace what is there. Every
/// call either does its work or leaves things as they were.
pub(crate) trait Driver: Debug + Send + Sync {
    /// Makes the pool.
    fn create(&self) -> Result<(), StorageError>;
    /// Takes the pool up and removes what an earlier process left half-done.
    fn open(&self) -> Result<(), StorageError>;
    /// Removes the pool, which holds no volume.
    fn destroy(&self) -> Result<(), StorageError>;
    /// Makes an empty directory that can become a volume.
    fn prepare(&self) -> Result<PathBuf, StorageError>;
    /// Makes a directory that can become a volume with the content of another volume of this pool, durably.
    fn duplicate(&self, kind: VolumeKind, name: &str, job: &Job) -> Result<PathBuf, StorageError>;
    /// Makes a prepared directory the volume of this name, durably.
    fn commit(&self, pending: &Path, kind: VolumeKind, name: &str) -> Result<PathBuf, StorageError>;
    /// Gives up a prepared directory. Must be quick: it may be called from a task.
    fn discard(&self, pending: &Path);
    /// Where a volume is, if there is one.
    fn find(&self, kind: VolumeKind, name: &str) -> Result<Option<PathBuf>, StorageError>;
    /// Names of all volumes of a kind.
    fn volumes(&self, kind: VolumeKind) -> Result<Vec<String>, StorageError>;
    /// Gives a volume another name.
    fn rename(&self, kind: VolumeKind, old: &str, new: &str) -> Result<(), StorageError>;
    /// Removes a volume: its name is free at once, its space soon after.
    fn delete(&self, kind: VolumeKind, name: &str) -> Result<(), StorageError>;
    /// Bytes that a volume occupies.
    fn usage(&self, kind: VolumeKind, name: &str) -> Result<u64, StorageError>;
    /// Space of the pool.
    fn resources(&self) -> Result<Resources, StorageError>;
}

/// Names of all drivers. A new one is added here and in [`driver`].
pub(crate) const DRIVERS: [&str; 1] = ["dir"];

/// The driver of a pool whose files are at `root`; `own` tells whether that directory is the pool's own.
pub(crate) fn driver(
    name: &str,
    pool: &str,
    root: PathBuf,
    own: bool,
    reaper: &Reaper,
) -> Result<Arc<dyn Driver>, StorageError> {
    match name {
        "dir" => Ok(Arc::new(DirDriver::new(pool.to_owned(), root, own, reaper.clone()))),
        _ => Err(StorageError::UnknownDriver { driver: name.to_owned(), known: DRIVERS.join(", ") }),
    }
}
