//! Volumes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_store::step;

use crate::driver::Driver;
use crate::error::StorageError;

/// What a volume is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VolumeKind {
    /// The root of a container.
    Container,
    /// The disk of a virtual machine.
    VirtualMachine,
    /// A snapshot of a container's volume.
    ContainerSnapshot,
    /// A snapshot of a virtual machine's volume.
    VirtualMachineSnapshot,
    /// A volume of its own.
    Custom,
}

impl VolumeKind {
    /// All kinds.
    pub const ALL: [VolumeKind; 5] = [
        VolumeKind::Container,
        VolumeKind::VirtualMachine,
        VolumeKind::ContainerSnapshot,
        VolumeKind::VirtualMachineSnapshot,
        VolumeKind::Custom,
    ];

    /// Name of the directory that such volumes are in.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            VolumeKind::Container => "containers",
            VolumeKind::VirtualMachine => "virtual-machines",
            VolumeKind::ContainerSnapshot => "containers-snapshots",
            VolumeKind::VirtualMachineSnapshot => "virtual-machines-snapshots",
            VolumeKind::Custom => "custom",
        }
    }
}

impl fmt::Display for VolumeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VolumeKind::Container => "container",
            VolumeKind::VirtualMachine => "virtual-machine",
            VolumeKind::ContainerSnapshot => "container snapshot",
            VolumeKind::VirtualMachineSnapshot => "virtual-machine snapshot",
            VolumeKind::Custom => "custom",
        })
    }
}

/// Which volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRef {
    /// Its pool.
    pub pool: String,
    /// What it is for.
    pub kind: VolumeKind,
    /// Its name.
    pub name: String,
}

/// Whether this may be the name of a pool or a volume: it becomes that of a directory.
pub(crate) fn check_name(name: &str) -> Result<(), StorageError> {
    let legal = (1..=255).contains(&name.len()) && !name.starts_with('.') && !name.contains(['/', '\0', '\n']);
    legal.then_some(()).ok_or_else(|| StorageError::BadName(name.to_owned()))
}

/// A volume that is being filled. Dropping it removes what there is.
#[derive(Debug)]
pub struct PendingVolume {
    driver: Arc<dyn Driver>,
    kind: VolumeKind,
    name: String,
    path: Option<PathBuf>,
}

impl PendingVolume {
    /// A directory that `driver` has just made.
    pub(crate) fn new(driver: Arc<dyn Driver>, kind: VolumeKind, name: String, path: PathBuf) -> PendingVolume {
        PendingVolume { driver, kind, name, path: Some(path) }
    }

    /// The directory to fill. It belongs to root, has the mode 0711 and is empty at first.
    pub fn path(&self) -> &Path {
        // Only absent after `commit`, which takes the value.
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// Makes it the volume that was asked for, and returns where it is now.
    ///
    /// If somebody else made a volume of that name meanwhile, that one stays and this one goes.
    pub async fn commit(mut self) -> Result<PathBuf, StorageError> {
        let (driver, kind, name) = (self.driver.clone(), self.kind, self.name.clone());
        let pending = self.path().to_owned();
        let done = tokio::task::spawn_blocking(move || {
            driver.commit(&pending, kind, &name).inspect(|_| step::done("volume in its place"))
        })
        .await;
        let done = done.map_err(|error| StorageError::path("", self.path())(std::io::Error::other(error)))?;
        if done.is_ok() {
            self.path = None;
        }
        done
    }
}

impl Drop for PendingVolume {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            self.driver.discard(&path);
        }
    }
}
