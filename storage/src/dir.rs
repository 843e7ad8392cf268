//! The driver `dir`: plain directories.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Config, bad_value, check_empty_directory, check_known};
use crate::copy::Job;
use crate::driver::{Driver, Site};
use crate::error::StorageError;
use crate::layout::{Layout, remove_dir};
use crate::volume::VolumeKind;

/// A pool in a directory.
#[derive(Debug)]
pub(crate) struct DirDriver {
    layout: Layout,
    own: bool,
}

impl DirDriver {
    /// The pool of this configuration.
    pub(crate) fn new(site: Site, config: &Config) -> DirDriver {
        let own = site.own_root();
        let root = config.get("source").map_or_else(|| own.clone(), PathBuf::from);
        DirDriver { own: root == own, layout: Layout::new(site.pool, root, site.reaper) }
    }

    /// Checks the configuration of a new pool and puts in what it leaves out.
    pub(crate) fn complete(site: &Site, config: &mut Config) -> Result<(), StorageError> {
        let own = site.own_root();
        let source = config.entry("source".to_owned()).or_default();
        if source.is_empty() {
            *source = own.to_string_lossy().into_owned();
        } else if Path::new(source) != own {
            check_empty_directory(source).map_err(|reason| bad_value(&site.pool, "source", source, reason))?;
        }
        Ok(())
    }

    /// Checks a configuration's keys and values.
    pub(crate) fn check(pool: &str, config: &Config) -> Result<(), StorageError> {
        check_known(pool, config, &["source"])
    }
}

impl Driver for DirDriver {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn create(&self) -> Result<(), StorageError> {
        if self.own {
            self.layout.make(self.layout.root())?;
        }
        self.layout.create()
    }

    fn open(&self) -> Result<(), StorageError> {
        if !self.layout.root().is_dir() {
            let gone = io::Error::new(io::ErrorKind::NotFound, "its directory is gone: mount or restore it");
            return Err(self.layout.at(self.layout.root())(gone));
        }
        self.layout.open()
    }

    fn change(&self, _before: &Config) -> Result<(), StorageError> {
        Ok(())
    }

    fn destroy(&self) -> Result<(), StorageError> {
        self.layout.destroy()?;
        let root = self.layout.root();
        if self.own { remove_dir(root).map_err(self.layout.at(root)) } else { Ok(()) }
    }

    fn prepare(&self, _kind: VolumeKind) -> Result<PathBuf, StorageError> {
        let path = self.layout.pending();
        self.layout.make(&path)?;
        Ok(path)
    }

    fn duplicate(&self, kind: VolumeKind, name: &str, job: &Job) -> Result<PathBuf, StorageError> {
        let source = self.layout.existing(kind, name)?;
        let pending = self.prepare(kind)?;
        match job.fill(&source, &pending) {
            Ok(_) => Ok(pending),
            Err(error) => {
                self.discard(&pending);
                Err(self.layout.at(&source)(error))
            }
        }
    }

    /// What a directory holds cannot be limited.
    fn limit(&self, _kind: VolumeKind, _name: &str, _bytes: Option<u64>) -> Result<(), StorageError> {
        Ok(())
    }

    fn usage(&self, kind: VolumeKind, name: &str) -> Result<u64, StorageError> {
        self.layout.usage(kind, name)
    }
}
