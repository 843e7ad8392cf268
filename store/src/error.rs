//! What can go wrong with the store.

use std::path::PathBuf;

use crate::{Key, LeaseId};

/// Class of an error of the state store and of the crates that stand on it, from which the API chooses its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The named object does not exist.
    NotFound,
    /// It exists already, or is in use.
    Conflict,
    /// The request makes no sense.
    Invalid,
    /// The object was changed since the client read it.
    Changed,
    /// A rule that the administrator made forbids it.
    Forbidden,
    /// Its present state does not allow it.
    Busy,
    /// A disk or quota is full.
    NoSpace,
    /// Something of this host that is needed for it is not there now.
    Unavailable,
    /// A fault of this host or of Berth.
    Internal,
}

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A second daemon on the same directory.
    #[error("The state in {} is in use by {}: stop that daemon or choose another directory", dir.display(), holder(*pid))]
    InUse {
        /// The directory of the store.
        dir: PathBuf,
        /// The process that has it, if it could be told.
        pid: Option<u32>,
    },
    /// The file system is full.
    #[error("The file system of {} is full: free some space and try again (nothing was changed)", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// The database was written by a newer release.
    #[error(
        "The state in {} has format {found}, this release knows formats up to {supported}: \
         run the newer release again, or restore a backup made by this one", path.display()
    )]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// Format of the database.
        found: i64,
        /// The newest format that this release knows.
        supported: i64,
    },
    /// The database is damaged or is not one.
    #[error("The state in {} cannot be read ({reason}): restore it from a backup", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What the engine says.
        reason: String,
    },
    /// A document was written by a newer release.
    #[error(
        "The {kind} document at {key} has version {found}, this release knows versions up to {supported}: \
         use the newer release"
    )]
    NewerDocument {
        /// Where the document is.
        key: Key,
        /// Its type.
        kind: &'static str,
        /// Version of the document.
        found: u64,
        /// The newest version that this release knows.
        supported: u32,
    },
    /// A document does not have the form of its type.
    #[error("The {kind} document at {key} cannot be read: {reason}")]
    Document {
        /// Where the document is.
        key: Key,
        /// Its type.
        kind: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A transaction goes beyond a limit, or contradicts itself.
    #[error("The transaction is not acceptable: {0}")]
    Refused(String),
    /// A rule forbids the change; see [`crate::Admission`].
    #[error("{0}")]
    NotAdmitted(String),
    /// The lease of a put is gone.
    #[error("Lease {0} has expired: take a new one")]
    LeaseGone(LeaseId),
    /// Others kept changing the same document.
    #[error("{0} is being changed by somebody else: try again")]
    Contended(Key),
    /// A directory or file of the store cannot be used.
    #[error("Cannot use {} for the state: {source}", path.display())]
    Path {
        /// What was touched.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The engine failed.
    #[error("The state in {} cannot be accessed: {reason}", path.display())]
    Engine {
        /// The database file.
        path: PathBuf,
        /// What the engine says.
        reason: String,
    },
    /// The store was closed while a call waited.
    #[error("The store is closed: the daemon is shutting down")]
    Closed,
}

impl StoreError {
    /// The rough class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            StoreError::InUse { .. } => ErrorKind::Busy,
            StoreError::Full { .. } => ErrorKind::NoSpace,
            StoreError::Refused(_) => ErrorKind::Invalid,
            StoreError::NotAdmitted(_) => ErrorKind::Forbidden,
            StoreError::LeaseGone(_) | StoreError::NewerSchema { .. } | StoreError::NewerDocument { .. } => {
                ErrorKind::Unavailable
            }
            StoreError::Contended(_) => ErrorKind::Conflict,
            _ => ErrorKind::Internal,
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
