//! The driver `dir`: plain directories.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use uuid::Uuid;

use crate::copy::Job;
use crate::driver::{Driver, Resources};
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

/// A pool in a directory.
#[derive(Debug)]
pub(crate) struct DirDriver {
    pool: String,
    root: PathBuf,
    own: bool,
    reaper: Reaper,
}

impl DirDriver {
    /// A pool at `root`, which it removes in the end if it is its own.
    pub(crate) fn new(pool: String, root: PathBuf, own: bool, reaper: Reaper) -> DirDriver {
        DirDriver { pool, root, own, reaper }
    }

    fn at(&self, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
        StorageError::path(&self.pool, path)
    }

    fn place(&self, kind: VolumeKind, name: &str) -> PathBuf {
        self.root.join(kind.directory()).join(name)
    }

    fn make(&self, path: &Path) -> Result<(), StorageError> {
        match DirBuilder::new().mode(MODE).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(self.at(path))?,
        }
        // Whatever the umask is.
        std::fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(self.at(path))
    }

    fn make_all(&self) -> Result<(), StorageError> {
        for kind in VolumeKind::ALL {
            self.make(&self.root.join(kind.directory()))?;
        }
        self.make(&self.root.join(PENDING))?;
        self.make(&self.root.join(TRASH))
    }

    /// Renames without replacing, and sees to it that the new name is on disk.
    fn shift(&self, from: &Path, to: &Path) -> io::Result<()> {
        renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?;
        match to.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    fn throw_away(&self, path: &Path) -> io::Result<()> {
        let trash = self.root.join(TRASH);
        std::fs::rename(path, trash.join(Uuid::new_v4().simple().to_string()))?;
        self.reaper.empty(trash);
        Ok(())
    }

    fn exists(&self, kind: VolumeKind, volume: &str) -> StorageError {
        StorageError::VolumeExists { pool: self.pool.clone(), kind, volume: volume.to_owned() }
    }

    fn missing(&self, kind: VolumeKind, volume: &str) -> StorageError {
        StorageError::VolumeNotFound { pool: self.pool.clone(), kind, volume: volume.to_owned() }
    }
}

impl Driver for DirDriver {
    fn create(&self) -> Result<(), StorageError> {
        if self.own {
            self.make(&self.root)?;
        }
        self.make_all()
    }

    fn open(&self) -> Result<(), StorageError> {
        if !self.root.is_dir() {
            let gone = io::Error::new(io::ErrorKind::NotFound, "its directory is gone: mount or restore it");
            return Err(self.at(&self.root)(gone));
        }
        self.make_all()?;
        let pending = self.root.join(PENDING);
        for entry in std::fs::read_dir(&pending).map_err(self.at(&pending))? {
            let path = entry.map_err(self.at(&pending))?.path();
            self.throw_away(&path).map_err(self.at(&path))?;
        }
        self.reaper.empty(self.root.join(TRASH));
        Ok(())
    }

    fn destroy(&self) -> Result<(), StorageError> {
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
        if self.own { remove_dir(&self.root).map_err(self.at(&self.root)) } else { Ok(()) }
    }

    fn prepare(&self) -> Result<PathBuf, StorageError> {
        let path = self.root.join(PENDING).join(Uuid::new_v4().simple().to_string());
        self.make(&path)?;
        Ok(path)
    }

    fn duplicate(&self, kind: VolumeKind, name: &str, job: &Job) -> Result<PathBuf, StorageError> {
        let source = self.find(kind, name)?.ok_or_else(|| self.missing(kind, name))?;
        let pending = self.prepare()?;
        match job.fill(&source, &pending) {
            Ok(_) => Ok(pending),
            Err(error) => {
                self.discard(&pending);
                Err(self.at(&source)(error))
            }
        }
    }

    fn commit(&self, pending: &Path, kind: VolumeKind, name: &str) -> Result<PathBuf, StorageError> {
        let path = self.place(kind, name);
        match self.shift(pending, &path) {
            Ok(()) => Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(self.exists(kind, name)),
            Err(error) => Err(self.at(&path)(error)),
        }
    }

    fn discard(&self, pending: &Path) {
        if let Err(error) = self.throw_away(pending) {
            tracing::warn!(%error, path = %pending.display(), "Cannot remove an unfinished volume; the next start will");
        }
    }

    fn find(&self, kind: VolumeKind, name: &str) -> Result<Option<PathBuf>, StorageError> {
        let path = self.place(kind, name);
        match std::fs::symlink_metadata(&path) {
            Ok(_) => Ok(Some(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.at(&path)(error)),
        }
    }

    fn volumes(&self, kind: VolumeKind) -> Result<Vec<String>, StorageError> {
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

    fn rename(&self, kind: VolumeKind, old: &str, new: &str) -> Result<(), StorageError> {
        let (from, to) = (self.place(kind, old), self.place(kind, new));
        self.shift(&from, &to).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.missing(kind, old),
            io::ErrorKind::AlreadyExists => self.exists(kind, new),
            _ => self.at(&from)(error),
        })
    }

    fn delete(&self, kind: VolumeKind, name: &str) -> Result<(), StorageError> {
        let path = self.place(kind, name);
        self.throw_away(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.missing(kind, name),
            _ => self.at(&path)(error),
        })
    }

    fn usage(&self, kind: VolumeKind, name: &str) -> Result<u64, StorageError> {
        let path = self.place(kind, name);
        tree::usage(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.missing(kind, name),
            _ => self.at(&path)(error),
        })
    }

    fn resources(&self) -> Result<Resources, StorageError> {
        let stat = rustix::fs::statvfs(&self.root).map_err(|error| self.at(&self.root)(error.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Resources {
            used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
            total: bytes(stat.f_blocks),
            inodes_used: stat.f_files.saturating_sub(stat.f_ffree),
            inodes_total: stat.f_files,
        })
    }
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
