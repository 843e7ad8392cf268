//! The driver `btrfs`: volumes are subvolumes, copies and snapshots are snapshots.

mod ground;
mod options;
mod quota;
pub(crate) mod subvolume;
pub(crate) mod sys;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use self::ground::{Ground, is_block_device};
use self::options::Options;
use self::quota::Quotas;
use crate::config::{Config, bad_value, check_empty_directory, check_known, parse_size};
use crate::copy::Job;
use crate::driver::{Driver, Site};
use crate::error::StorageError;
use crate::layout::{Layout, remove_dir};
use crate::volume::VolumeKind;

const SOURCE: &str = "source";
const SIZE: &str = "size";
const MOUNT_OPTIONS: &str = "btrfs.mount_options";
const KEYS: [&str; 3] = [SOURCE, SIZE, MOUNT_OPTIONS];

/// Bounds of the size that a pool gets by default, which is a fifth of what is free.
const DEFAULT_SIZE: (u64, u64) = (5 << 30, 30 << 30);
/// Smaller ones are no use; mkfs.btrfs itself wants 109 MiB.
const MIN_SIZE: u64 = 128 << 20;

/// A pool on a btrfs.
#[derive(Debug)]
pub(crate) struct BtrfsDriver {
    layout: Layout,
    id: Uuid,
    ground: Ground,
    size: Option<u64>,
    options: Options,
}

impl BtrfsDriver {
    /// The pool of this configuration, which is complete.
    pub(crate) fn new(site: Site, config: &Config) -> Result<BtrfsDriver, StorageError> {
        let source = config.get(SOURCE).map_or_else(PathBuf::new, PathBuf::from);
        let (ground, root) = if source == file(&site) {
            (Ground::File(source), site.own_root())
        } else if source.starts_with("/dev") {
            (Ground::Device(source), site.own_root())
        } else {
            (Ground::Directory, source)
        };
        let size = size(&site.pool, config)?;
        let options = mount_options(&site.pool, config)?;
        Ok(BtrfsDriver { layout: Layout::new(site.pool, root, site.reaper), id: site.id, ground, size, options })
    }

    /// Checks the configuration of a new pool and puts in what it leaves out.
    pub(crate) fn complete(site: &Site, config: &mut Config) -> Result<(), StorageError> {
        let refused = |key: &str, value: &str, reason: &str| bad_value(&site.pool, key, value, reason.to_owned());
        let source = config.get(SOURCE).cloned().unwrap_or_default();
        if source.is_empty() || Path::new(&source) == file(site) {
            config.insert(SOURCE.to_owned(), file(site).to_string_lossy().into_owned());
            if config.get(SIZE).is_none_or(String::is_empty) {
                let free = rustix::fs::statvfs(&site.base).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
                let size = (free.unwrap_or(0) / 5).clamp(DEFAULT_SIZE.0, DEFAULT_SIZE.1) >> 30;
                config.insert(SIZE.to_owned(), format!("{size}GiB"));
            }
            return match size(&site.pool, config)? {
                Some(size) if size >= MIN_SIZE => Ok(()),
                _ => Err(refused(SIZE, &config[SIZE], "a btrfs needs at least 128MiB")),
            };
        }
        if let Some(size) = config.get(SIZE).filter(|size| !size.is_empty()) {
            return Err(refused(
                SIZE,
                size,
                "it is the size of a pool's own file; leave it out together with a source",
            ));
        }
        if source.starts_with("/dev/") {
            let found = is_block_device(Path::new(&source));
            return if found { Ok(()) } else { Err(refused(SOURCE, &source, "it is not a block device")) };
        }
        check_directory(&source).map_err(|reason| bad_value(&site.pool, SOURCE, &source, reason))
    }

    /// Checks a configuration's keys and values.
    pub(crate) fn check(pool: &str, config: &Config) -> Result<(), StorageError> {
        check_known(pool, config, &KEYS)?;
        size(pool, config)?;
        mount_options(pool, config).map(drop)
    }

    fn root(&self) -> io::Result<File> {
        File::open(self.layout.root())
    }

    /// For what fails with the pool as a whole.
    fn whole(&self) -> impl FnOnce(io::Error) -> StorageError {
        self.layout.at(self.layout.root())
    }

    fn create_directory(&self) -> Result<(), StorageError> {
        let root = self.layout.root();
        if !root.exists() {
            let made = split(root).and_then(|(parent, name)| sys::create(parent.as_fd(), &name));
            made.map_err(self.whole())?;
            self.layout.set_mode(root)?;
        }
        self.layout.create()
    }

    fn destroy_directory(&self) -> Result<(), StorageError> {
        let root = self.layout.root();
        let outside = match self.root() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(self.whole())?,
        };
        if !sys::is_btrfs(outside.as_fd()).map_err(self.whole())? {
            // Nothing was made: it was no place for a pool.
            return Ok(());
        }
        self.layout.destroy()?;
        drop(outside);
        // As LXD does: a subvolume is the pool's, a directory stays. One that something is mounted at cannot go.
        let removed = || {
            let (parent, _) = split(root)?;
            let opened = self.root()?;
            let (is_one, id) = (sys::is_subvolume(opened.as_fd())?, sys::subvolume_of(opened.as_fd())?);
            drop(opened);
            let inside = sys::is_btrfs(parent.as_fd())? && sys::subvolume_of(parent.as_fd())? != id;
            if !is_one || !inside || std::fs::read_dir(root)?.next().is_some() {
                return Ok(());
            }
            match remove_dir(root) {
                // It is mounted there.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
                done => done,
            }
        };
        removed().map_err(self.whole())
    }

    fn make_subvolume(&self, path: &Path, kind: VolumeKind) -> io::Result<()> {
        let (parent, name) = split(path)?;
        sys::create(parent.as_fd(), &name)?;
        let made = File::open(path)?;
        if matches!(kind, VolumeKind::VirtualMachine | VolumeKind::VirtualMachineSnapshot) {
            sys::write_in_place(made.as_fd())?;
        }
        quota::track(parent.as_fd(), sys::subvolume_of(made.as_fd())?)
    }

    fn copy_subvolume(&self, source: &Path, path: &Path) -> io::Result<()> {
        let (parent, name) = split(path)?;
        subvolume::copy(File::open(source)?.as_fd(), parent.as_fd(), &name)?;
        quota::track(parent.as_fd(), sys::subvolume_of(File::open(path)?.as_fd())?)?;
        Ok(rustix::fs::syncfs(parent)?)
    }

    /// Quotas of the pool, turned on if they can be and `wanted` says so.
    fn quotas(&self, wanted: bool) -> Result<Quotas, StorageError> {
        let found = || {
            let root = self.root()?;
            if wanted && quota::of(root.as_fd())? == Quotas::Off && self.ground != Ground::Directory {
                sys::enable_quotas(root.as_fd(), false)?;
            }
            quota::of(root.as_fd())
        };
        found().map_err(self.whole())
    }
}

impl Driver for BtrfsDriver {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn create(&self) -> Result<(), StorageError> {
        if self.ground == Ground::Directory {
            return self.create_directory();
        }
        let root = self.layout.root();
        self.layout.make(root)?;
        let formatted = self.ground.format(self.id, self.layout.pool(), self.size);
        let mounted = formatted.and_then(|()| self.ground.mount(self.id, root, &self.options));
        mounted.map_err(|source| StorageError::NotMade { pool: self.layout.pool().to_owned(), source })?;
        self.root().and_then(|root| quota::begin(root.as_fd())).map_err(self.whole())?;
        self.layout.set_mode(root)?;
        self.layout.create()
    }

    fn open(&self) -> Result<(), StorageError> {
        let root = self.layout.root();
        if self.ground != Ground::Directory {
            self.layout.make(root)?;
        }
        self.ground.mount(self.id, root, &self.options).map_err(self.whole())?;
        let found = self.root().and_then(|root| sys::is_btrfs(root.as_fd())).map_err(self.whole())?;
        if !found {
            return Err(self.whole()(io::Error::other("it is not on a btrfs: mount what it was on")));
        }
        self.layout.open()
    }

    fn change(&self, before: &Config) -> Result<(), StorageError> {
        let pool = self.layout.pool();
        match (size(pool, before)?, self.size) {
            (old, new) if old == new => {}
            (Some(old), Some(new)) if new > old => {
                self.ground.grow(self.layout.root(), new).map_err(self.whole())?;
            }
            (_, new) => {
                let value = new.map(|new| new.to_string()).unwrap_or_default();
                return Err(bad_value(pool, SIZE, &value, "a pool can only grow: make a new one".to_owned()));
            }
        }
        if mount_options(pool, before)? == self.options {
            return Ok(());
        }
        self.ground.remount(self.layout.root(), &self.options).map_err(self.whole())
    }

    fn destroy(&self) -> Result<(), StorageError> {
        if self.ground == Ground::Directory {
            return self.destroy_directory();
        }
        let root = self.layout.root();
        let removed = self.ground.remove(self.id, root).and_then(|()| remove_dir(root));
        removed.map_err(self.whole())
    }

    fn prepare(&self, kind: VolumeKind) -> Result<PathBuf, StorageError> {
        let path = self.layout.pending();
        self.make_subvolume(&path, kind).map_err(self.layout.at(&path))?;
        self.layout.set_mode(&path)?;
        Ok(path)
    }

    fn duplicate(&self, kind: VolumeKind, name: &str, _job: &Job) -> Result<PathBuf, StorageError> {
        let source = self.layout.existing(kind, name)?;
        let pending = self.layout.pending();
        match self.copy_subvolume(&source, &pending) {
            Ok(()) => Ok(pending),
            Err(error) => {
                if pending.exists() {
                    self.discard(&pending);
                }
                Err(self.layout.at(&source)(error))
            }
        }
    }

    fn limit(&self, kind: VolumeKind, name: &str, bytes: Option<u64>) -> Result<(), StorageError> {
        let path = self.layout.existing(kind, name)?;
        if self.quotas(bytes.is_some())? == Quotas::Off {
            return if bytes.is_none() {
                Ok(())
            } else {
                Err(StorageError::NoQuotas { root: self.layout.root().to_owned(), pool: self.layout.pool().to_owned() })
            };
        }
        let limited = || {
            let id = sys::subvolume_of(File::open(&path)?.as_fd())?;
            // By a file outside of it: in a volume that is full, not even its limit can be changed.
            quota::limit(self.root()?.as_fd(), id, bytes)
        };
        limited().map_err(self.layout.at(&path))
    }

    fn usage(&self, kind: VolumeKind, name: &str) -> Result<u64, StorageError> {
        let path = self.layout.existing(kind, name)?;
        let counted = || {
            let volume = File::open(&path)?;
            quota::usage(volume.as_fd(), sys::subvolume_of(volume.as_fd())?)
        };
        match counted().map_err(self.layout.at(&path))? {
            Some(bytes) => Ok(bytes),
            None => self.layout.usage(kind, name),
        }
    }
}

/// The file of a pool that has one.
fn file(site: &Site) -> PathBuf {
    site.base.join("disks").join(format!("{}.img", site.pool))
}

fn size(pool: &str, config: &Config) -> Result<Option<u64>, StorageError> {
    let given = config.get(SIZE).filter(|size| !size.is_empty());
    given.map(|size| parse_size(size).map_err(|reason| bad_value(pool, SIZE, size, reason))).transpose()
}

fn mount_options(pool: &str, config: &Config) -> Result<Options, StorageError> {
    let given = config.get(MOUNT_OPTIONS).map(String::as_str).filter(|options| !options.is_empty());
    let given = given.unwrap_or(options::DEFAULT);
    options::parse(given).map_err(|reason| bad_value(pool, MOUNT_OPTIONS, given, reason))
}

/// The place of a pool without a file system of its own: an empty directory, or a subvolume yet to be made.
fn check_directory(source: &str) -> Result<(), String> {
    let path = Path::new(source);
    let place = if path.exists() || !path.is_absolute() {
        check_empty_directory(source)?;
        path
    } else {
        path.parent().filter(|_| path.file_name().is_some()).ok_or("it is not the path of a directory")?
    };
    let found = File::open(place).and_then(|place| sys::is_btrfs(place.as_fd()));
    match found {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(format!("{} is not on a btrfs; leave source out for a file of the pool's own", place.display()))
        }
        Err(error) => Err(format!("{} cannot be used: {error}", place.display())),
    }
}

/// The directory that something is in, and its name there.
fn split(path: &Path) -> io::Result<(File, CString)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok((File::open(parent)?, CString::new(name.as_bytes())?))
}
