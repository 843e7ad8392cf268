//! What can go wrong, as a user is told it: the object, the reason and the next step.

use berth_store::ErrorKind;
use std::io;
use std::path::{Path, PathBuf};

/// An error of the image store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No image matches.
    #[error("image \"{name}\" not found in project \"{project}\"; `berth image list` shows what there is")]
    ImageNotFound {
        /// Project searched.
        project: String,
        /// Fingerprint, prefix or alias asked for.
        name: String,
    },
    /// More than one image begins with the prefix.
    #[error("fingerprint prefix \"{prefix}\" matches more than one image in project \"{project}\"; give more digits")]
    Ambiguous {
        /// Project searched.
        project: String,
        /// Prefix asked for.
        prefix: String,
    },
    /// No such alias.
    #[error("image alias \"{name}\" not found in project \"{project}\"; `berth image alias list` shows what there is")]
    AliasNotFound {
        /// Project searched.
        project: String,
        /// Alias asked for.
        name: String,
    },
    /// No such template.
    #[error("template \"{name}\" not found; `lxc config template list` shows what the instance has")]
    TemplateNotFound {
        /// Name asked for.
        name: String,
    },
    /// The image is there already.
    #[error("image {fingerprint} already exists in project \"{project}\"; delete it first or use it as it is")]
    ImageExists {
        /// Project.
        project: String,
        /// Fingerprint.
        fingerprint: String,
    },
    /// The alias is there already.
    #[error("image alias \"{name}\" already exists in project \"{project}\"; delete it first or choose another name")]
    AliasExists {
        /// Project.
        project: String,
        /// Alias.
        name: String,
    },
    /// Somebody else changed the document at the same time.
    #[error("{what} was changed by somebody else at the same time; read it again and retry")]
    Changed {
        /// The object.
        what: String,
    },
    /// A request or uploaded file that cannot be taken.
    #[error("{0}")]
    Invalid(String),
    /// Something needed is missing on this host.
    #[error("{0}")]
    Precondition(String),
    /// The uploaded bytes are not those announced.
    #[error("the uploaded image has fingerprint {actual}, not {expected}; upload it again")]
    Fingerprint {
        /// Fingerprint the client announced.
        expected: String,
        /// Fingerprint of what arrived.
        actual: String,
    },
    /// A file operation failed.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, e.g. `create directory`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The helper process could not be run or broke its protocol.
    #[error("image helper {helper}: {reason}", helper = helper.display())]
    Helper {
        /// Path of the helper binary.
        helper: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// A job in the helper failed for no fault of the image's.
    #[error("{0}")]
    Job(String),
    /// The state store failed.
    #[error(transparent)]
    Store(#[from] berth_store::StoreError),
    /// A background task ended abnormally.
    #[error("internal task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Result of the image store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The rough kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ImageNotFound { .. } | Self::AliasNotFound { .. } | Self::TemplateNotFound { .. } => {
                ErrorKind::NotFound
            }
            Self::ImageExists { .. } | Self::AliasExists { .. } => ErrorKind::Conflict,
            Self::Changed { .. } => ErrorKind::Changed,
            Self::Invalid(_) | Self::Ambiguous { .. } | Self::Fingerprint { .. } => ErrorKind::Invalid,
            Self::Precondition(_) => ErrorKind::Unavailable,
            Self::Io { .. } | Self::Helper { .. } | Self::Job(_) | Self::Task(_) => ErrorKind::Internal,
            Self::Store(e) => e.kind(),
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
