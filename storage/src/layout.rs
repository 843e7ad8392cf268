//! How volumes lie in a pool: a directory for each kind, one for what is being filled, one for what is being removed.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use uuid::Uuid;

use crate::driver::Resources;
use crate::error::StorageError;
use crate::reaper::Reaper;
use crate::tree;
use crate::volume::VolumeKind;

/// Volumes that are being filled. Names of pools and volumes never begin with a dot.
const PENDING: &str = ".pending";

/// Volumes that are being removed.
const TRASH: &str = ".trash";

/// Everyone may pass through (the processes of an instance are not root), only root may look.
const MODE: u32 = 0o711;

/// The directories of a pool.
#[derive(Debug)]
pub(crate) struct Layout {
    pool: String,
    root: PathBuf,
    reaper: Reaper,
}

impl Layout {
    /// Those of a pool at `root`.
    pub(crate) fn new(pool: String, root: PathBuf, reaper: Reaper) -> Layout {
        Layout { pool, root, reaper }
    }

    /// Name of the pool.
    pub(crate) fn pool(&self) -> &str {
        &self.pool
    }

    /// Where the pool is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// For errors of the file system.
    pub(crate) fn at(&self, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
        StorageError::path(&self.pool, path)
    }

    fn place(&self, kind: VolumeKind, name: &str) -> PathBuf {
        self.root.join(kind.directory()).join(name)
    }

    /// Makes a directory, which may be there, with the mode that all have.
    pub(crate) fn make(&self, path: &Path) -> Result<(), StorageError> {
        match DirBuilder::new().mode(MODE).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(self.at(path))?,
        }
        self.set_mode(path)
    }

    /// Sets the mode that all directories of a pool have, whatever the umask is.
    pub(crate) fn set_mode(&self, path: &Path) -> Result<(), StorageError> {
        std::fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(self.at(path))
    }

    /// Makes all directories.
    pub(crate) fn create(&self) -> Result<(), StorageError> {
        for kind in VolumeKind::ALL {
            self.make(&self.root.join(kind.directory()))?;
        }
        self.make(&self.root.join(PENDING))?;
        self.make(&self.root.join(TRASH))
    }

    /// Removes what an earlier process left half-done.
    pub(crate) fn open(&self) -> Result<(), StorageError> {
        self.create()?;
        let pending = self.root.join(PENDING);
        for entry in std::fs::read_dir(&pending).map_err(self.at(&pending))? {
            let path = entry.map_err(self.at(&pending))?.path();
            self.throw_away(&path).map_err(self.at(&path))?;
        }
        self.reaper.empty(self.root.join(TRASH));
        Ok(())
    }

    /// Removes all directories, which hold no volume.
    pub(crate) fn destroy(&self) -> Result<(), StorageError> {
        let dirs = VolumeKind::ALL.map(VolumeKind::directory);
        // Not recursively: should there be something after all, it stays.
        for dir in dirs {
            remove_dir(&self.root.join(dir)).map_err(self.at(&self.root.join(dir)))?;
        }
        for dir in [PENDING, TRASH] {
            let path = self.root.join(dir);
            if path.exists() {
                tree::empty(&path).map_err(self.at(&path))?;
            }
            remove_dir(&path).map_err(self.at(&path))?;
        }
        Ok(())
    }

    /// Where another volume can be filled; nothing is there yet.
    pub(crate) fn pending(&self) -> PathBuf {
        self.root.join(PENDING).join(Uuid::new_v4().simple().to_string())
    }

    /// Makes a filled directory the volume of this name, durably.
    pub(crate) fn commit(&self, pending: &Path, kind: VolumeKind, name: &str) -> Result<PathBuf, StorageError> {
        let path = self.place(kind, name);
        match shift(pending, &path) {
            Ok(()) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(self.exists(kind, name)),
            Err(error) => Err(self.at(&path)(error)),
        }
    }

    /// Gives up a directory that was being filled.
    pub(crate) fn discard(&self, pending: &Path) {
        if let Err(error) = self.throw_away(pending) {
            tracing::warn!(%error, path = %pending.display(), "Cannot remove an unfinished volume; the next start will");
        }
    }

    fn throw_away(&self, path: &Path) -> io::Result<()> {
        let trash = self.root.join(TRASH);
        std::fs::rename(path, trash.join(Uuid::new_v4().simple().to_string()))?;
        self.reaper.empty(trash);
        Ok(())
    }

    /// Where a volume is, if there is one.
    pub(crate) fn find(&self, kind: VolumeKind, name: &str) -> Result<Option<PathBuf>, StorageError> {
        let path = self.place(kind, name);
        match std::fs::symlink_metadata(&path) {
            Ok(_) => Ok(Some(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.at(&path)(error)),
        }
    }

    /// Where a volume is that should be there.
    pub(crate) fn existing(&self, kind: VolumeKind, name: &str) -> Result<PathBuf, StorageError> {
        self.find(kind, name)?.ok_or_else(|| self.missing(kind, name))
    }

    /// Names of all volumes of a kind.
    pub(crate) fn volumes(&self, kind: VolumeKind) -> Result<Vec<String>, StorageError> {
        let dir = self.root.join(kind.directory());
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.at(&dir)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry.map_err(self.at(&dir))?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Gives a volume another name.
    pub(crate) fn rename(&self, kind: VolumeKind, old: &str, new: &str) -> Result<(), StorageError> {
        let (from, to) = (self.place(kind, old), self.place(kind, new));
        shift(&from, &to).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.missing(kind, old),
            io::ErrorKind::AlreadyExists => self.exists(kind, new),
            _ => self.at(&from)(error),
        })
    }

    /// Moves a volume aside and has it removed.
    pub(crate) fn delete(&self, kind: VolumeKind, name: &str) -> Result<(), StorageError> {
        let path = self.place(kind, name);
        self.throw_away(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.missing(kind, name),
            _ => self.at(&path)(error),
        })
    }

    /// Bytes that the files of a volume occupy, each of which is looked at.
    pub(crate) fn usage(&self, kind: VolumeKind, name: &str) -> Result<u64, StorageError> {
        let path = self.place(kind, name);
        tree::usage(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.missing(kind, name),
            _ => self.at(&path)(error),
        })
    }

    /// Space of the file system.
    pub(crate) fn resources(&self) -> Result<Resources, StorageError> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|error| self.at(&self.root)(error.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Resources {
            used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
            total: bytes(stat.f_blocks),
            inodes_used: stat.f_files.saturating_sub(stat.f_ffree),
            inodes_total: stat.f_files,
        })
    }

    fn exists(&self, kind: VolumeKind, volume: &str) -> StorageError {
        StorageError::VolumeExists { pool: self.pool.clone(), kind, volume: volume.to_owned() }
    }

    fn missing(&self, kind: VolumeKind, volume: &str) -> StorageError {
        StorageError::VolumeNotFound { pool: self.pool.clone(), kind, volume: volume.to_owned() }
    }
}

/// Renames without replacing, and sees to it that the new name is on disk.
fn shift(from: &Path, to: &Path) -> io::Result<()> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?;
    match to.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes an empty directory, which may be gone.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
