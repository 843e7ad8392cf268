//! What can go wrong with networks.

use std::io;
use std::path::PathBuf;

use berth_store::{ErrorKind, StoreError};

/// An error of networks.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no such network.
    #[error("Network {0:?} not found: `network list` shows those there are")]
    NotFound(String),
    /// The name is taken by another network.
    #[error("Network {0:?} already exists: choose another name")]
    Exists(String),
    /// The name is taken by a link of somebody else.
    #[error("A network interface named {0:?} exists on this host and is not Berth's: choose another name or remove it")]
    LinkTaken(String),
    /// The name cannot be that of a network.
    #[error("Network name {0:?} is not valid: use 2 to 15 letters, digits, '-', '_' or '.', beginning with a letter")]
    BadName(String),
    /// A configuration key is not known.
    #[error("Network {network:?}: unknown key {key:?}{hint}")]
    UnknownKey {
        /// The network.
        network: String,
        /// The key.
        key: String,
        /// What was probably meant, as the end of the sentence.
        hint: String,
    },
    /// A configuration value is not acceptable.
    #[error("Network {network:?}: {key}={value:?} is not valid: {reason}")]
    BadValue {
        /// The network.
        network: String,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No free subnet was found.
    #[error("Network {network:?}: no free {family} subnet was found: set {key} to one, or to none")]
    NoSubnet {
        /// The network.
        network: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The key to set.
        key: &'static str,
    },
    /// The network is not in working order.
    #[error("Network {network:?} is not available: {reason}")]
    Unavailable {
        /// The network.
        network: String,
        /// Why.
        reason: String,
    },
    /// The kernel refused to change a link.
    #[error("Cannot {what}: {source}")]
    Link {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A helper program is missing or failed.
    #[error("Cannot {what}: {program} {reason}")]
    Program {
        /// What was tried.
        what: String,
        /// The program.
        program: &'static str,
        /// What it said.
        reason: String,
    },
    /// A file cannot be used.
    #[error("Cannot use {}: {source}", path.display())]
    Path {
        /// What was touched.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The network changed while it was being changed.
    #[error("Network {0:?} was changed by somebody else at the same time: try again")]
    Contended(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl NetworkError {
    /// The rough class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            NetworkError::NotFound(_) => ErrorKind::NotFound,
            NetworkError::Exists(_) | NetworkError::LinkTaken(_) | NetworkError::Contended(_) => ErrorKind::Conflict,
            NetworkError::BadName(_) | NetworkError::UnknownKey { .. } | NetworkError::BadValue { .. } => {
                ErrorKind::Invalid
            }
            NetworkError::NoSubnet { .. } | NetworkError::Unavailable { .. } => ErrorKind::Unavailable,
            NetworkError::Store(e) => e.kind(),
            _ => ErrorKind::Internal,
        }
    }

    /// For errors of the kernel, with what was tried.
    pub(crate) fn link(what: impl Into<String>) -> impl FnOnce(io::Error) -> NetworkError {
        let what = what.into();
        move |source| NetworkError::Link { what, source }
    }

    /// For errors of the file system.
    pub(crate) fn path(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> NetworkError {
        let path = path.into();
        move |source| NetworkError::Path { path, source }
    }
}
