//! What can go wrong with storage.

use std::io;
use std::path::PathBuf;

use berth_store::{ErrorKind, StoreError};

use crate::volume::VolumeKind;

/// An error of storage.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// There is no such pool.
    #[error("Storage pool {0:?} not found: `storage list` shows those there are")]
    PoolNotFound(String),
    /// The name is taken.
    #[error("Storage pool {0:?} already exists: choose another name")]
    PoolExists(String),
    /// The name cannot be that of a pool or a volume.
    #[error("{0:?} is not a valid name: use up to 255 bytes without '/', not beginning with '.'")]
    BadName(String),
    /// There is no such driver.
    #[error("Storage driver {driver:?} is not known: choose one of {known}")]
    UnknownDriver {
        /// What was asked for.
        driver: String,
        /// What there is.
        known: String,
    },
    /// A configuration key is not known.
    #[error("Storage pool {pool:?}: unknown key {key:?}{hint}")]
    UnknownKey {
        /// The pool.
        pool: String,
        /// The key.
        key: String,
        /// What was probably meant, as the end of the sentence.
        hint: String,
    },
    /// A configuration value is not acceptable.
    #[error("Storage pool {pool:?}: {key}={value:?} is not valid: {reason}")]
    BadValue {
        /// The pool.
        pool: String,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The pool holds volumes.
    #[error("Storage pool {pool:?} is in use: it holds the {kind} volume {volume:?}; delete or move it first")]
    InUse {
        /// The pool.
        pool: String,
        /// Kind of one of its volumes.
        kind: VolumeKind,
        /// Name of that volume.
        volume: String,
    },
    /// There is no such volume.
    #[error("Storage pool {pool:?} has no {kind} volume {volume:?}")]
    VolumeNotFound {
        /// The pool.
        pool: String,
        /// The kind.
        kind: VolumeKind,
        /// The volume.
        volume: String,
    },
    /// There is such a volume.
    #[error("Storage pool {pool:?} has a {kind} volume {volume:?} already: choose another name")]
    VolumeExists {
        /// The pool.
        pool: String,
        /// The kind.
        kind: VolumeKind,
        /// The volume.
        volume: String,
    },
    /// The pool changed while it was being changed.
    #[error("Storage pool {0:?} was changed by somebody else at the same time: try again")]
    Contended(String),
    /// The file system is full.
    #[error("Storage pool {pool:?} is full (at {}): free some space and try again", path.display())]
    Full {
        /// The pool.
        pool: String,
        /// Where.
        path: PathBuf,
    },
    /// What the pool is to stand on does not do.
    #[error("Storage pool {pool:?} cannot be made: {source}")]
    NotMade {
        /// The pool.
        pool: String,
        /// Why not.
        source: io::Error,
    },
    /// A volume of the pool cannot be limited.
    #[error("Storage pool {pool:?} keeps no quotas, which a size needs: leave out the size, or turn them on (`btrfs quota enable {}`)", root.display())]
    NoQuotas {
        /// The pool.
        pool: String,
        /// Where it is.
        root: PathBuf,
    },
    /// A file or directory cannot be used.
    #[error("Storage pool {pool:?}: cannot use {}: {source}", path.display())]
    Path {
        /// The pool.
        pool: String,
        /// What was touched.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StorageError {
    /// The rough class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            StorageError::PoolNotFound(_) | StorageError::VolumeNotFound { .. } => ErrorKind::NotFound,
            StorageError::PoolExists(_) | StorageError::VolumeExists { .. } | StorageError::Contended(_) => {
                ErrorKind::Conflict
            }
            StorageError::BadName(_)
            | StorageError::UnknownDriver { .. }
            | StorageError::UnknownKey { .. }
            | StorageError::BadValue { .. }
            | StorageError::NotMade { .. }
            | StorageError::NoQuotas { .. } => ErrorKind::Invalid,
            StorageError::InUse { .. } => ErrorKind::Busy,
            StorageError::Full { .. } => ErrorKind::NoSpace,
            StorageError::Path { .. } | StorageError::Store(_) => ErrorKind::Internal,
        }
    }

    /// For errors of the file system.
    pub(crate) fn path(pool: &str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> StorageError {
        let (pool, path) = (pool.to_owned(), path.into());
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full { pool, path },
            _ => StorageError::Path { pool, path, source },
        }
    }
}
