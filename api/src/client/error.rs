//! What can go wrong between client and server.

use std::{io, path::PathBuf};

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens on the socket.
    #[error(
        "no Berth daemon answers on {socket}: {reason}. Start it with `systemctl start berth` (or run `berthd` \
         as root); if it uses another directory, give that with --dir or in BERTH_DIR", socket = socket.display()
    )]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The user may not use the socket.
    #[error(
        "permission denied on {socket}: only root and the group `berth` may use it. Add yourself to the group with \
         `sudo usermod -aG berth $USER`, then log in again", socket = socket.display()
    )]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket cannot be reached for another reason.
    #[error("cannot connect to {socket}: {source}", socket = socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The server refused the request.
    #[error("{message}")]
    Api {
        /// HTTP status: 400, 403, 404, 409, 412, 500, ...
        code: u16,
        /// The server's text.
        message: String,
    },
    /// The server did the request in the background, and that failed.
    #[error("{message}")]
    Operation {
        /// 400 for a failure, 401 for a cancelled operation.
        code: u16,
        /// The server's text.
        message: String,
    },
    /// The connection broke.
    #[error("the connection to the daemon broke during {request}: {reason}. See `journalctl -u berth`, then try again")]
    Broken {
        /// Method and path.
        request: String,
        /// What broke.
        reason: String,
    },
    /// The server's answer makes no sense.
    #[error("the daemon's answer to {request} cannot be understood: {reason}")]
    Protocol {
        /// Method and path.
        request: String,
        /// What is wrong.
        reason: String,
    },
    /// A local file or stream failed during a transfer.
    #[error("{what}: {source}")]
    Local {
        /// Which file or stream.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Result of a request.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// HTTP status of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api { code, .. } | Self::Operation { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { code: 404, .. })
    }

    /// Whether the object was changed by somebody else since it was read.
    #[must_use]
    pub fn is_precondition_failed(&self) -> bool {
        matches!(self, Self::Api { code: 412, .. })
    }

    pub(super) fn broken(request: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Broken { request: request.into(), reason: reason.to_string() }
    }

    pub(super) fn protocol(request: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Protocol { request: request.into(), reason: reason.to_string() }
    }
}
