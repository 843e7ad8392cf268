//! What can go wrong with an instance.

use berth_images::Error as ImageError;
use berth_network::NetworkError;
use berth_storage::StorageError;
use berth_store::{ErrorKind, StoreError};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such object.
    #[error("{what} \"{name}\" not found in project \"{project}\"; the list command shows what is there")]
    NotFound {
        /// `Instance`, `Snapshot`, `Profile` or `Project`.
        what: &'static str,
        /// Its name.
        name: String,
        /// Project it was looked for in.
        project: String,
    },
    /// The name is taken.
    #[error("{what} \"{name}\" already exists in project \"{project}\"; choose another name or delete it first")]
    Exists {
        /// `Instance`, `Snapshot`, `Profile` or `Project`.
        what: &'static str,
        /// Its name.
        name: String,
        /// Project.
        project: String,
    },
    /// The request makes no sense; the text says what to change.
    #[error("{0}")]
    Invalid(String),
    /// The project forbids it.
    #[error("{0}")]
    Forbidden(String),
    /// The object is in use.
    #[error("{0}")]
    InUse(String),
    /// The object changed meanwhile.
    #[error("{what} \"{name}\" was changed by someone else meanwhile; read it again and repeat the change")]
    Changed {
        /// `Instance`, `Snapshot`, `Profile` or `Project`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The instance is in the wrong state.
    #[error("{0}")]
    State(String),
    /// The instance did not start, run or answer as it should.
    #[error("{0}")]
    Runtime(String),
    /// A program could not be run in the guest: exit status 127 (not found) or 126 (not executable).
    #[error("{message}")]
    Exec {
        /// 126 or 127.
        status: i32,
        /// Names the program.
        message: String,
    },
    /// The guest refused work on a file.
    #[error(transparent)]
    Guest(#[from] berth_guest::protocol::GuestError),
    /// The state store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The network failed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// An image could not be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The operating system refused something.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, with the object.
        action: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        use berth_guest::protocol::ErrorKind as Guest;
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } | Self::InUse(_) => ErrorKind::Conflict,
            Self::Invalid(_) | Self::Exec { .. } => ErrorKind::Invalid,
            Self::Forbidden(_) => ErrorKind::Forbidden,
            Self::Changed { .. } => ErrorKind::Changed,
            Self::State(_) => ErrorKind::Busy,
            Self::Guest(e) => match e.kind {
                Guest::NotFound => ErrorKind::NotFound,
                Guest::Conflict => ErrorKind::Conflict,
                Guest::PermissionDenied | Guest::Invalid | Guest::NotSupported => ErrorKind::Invalid,
                Guest::NoSpace => ErrorKind::NoSpace,
                Guest::Other => ErrorKind::Internal,
            },
            Self::Store(e) => e.kind(),
            Self::Storage(e) => e.kind(),
            Self::Network(e) => e.kind(),
            Self::Image(e) => e.kind(),
            Self::Runtime(_) | Self::Io { .. } => ErrorKind::Internal,
        }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
