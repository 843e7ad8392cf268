//! What can fail, with the object it failed on.

use std::io;

/// A failure of the container runtime. The texts name object and reason.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried, beginning with a verb.
        what: String,
        /// The reason.
        source: io::Error,
    },
    /// The specification makes no sense.
    #[error("invalid container specification: {0}")]
    Spec(String),
    /// The host or the container lacks something; the text tells what to do.
    #[error("{0}")]
    Unsupported(String),
    /// The container's init could not be started.
    #[error("{0}")]
    Init(String),
    /// The daemon went away or said something else than the protocol allows.
    #[error("the start was given up: {0}")]
    Handshake(String),
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was tried.
pub(crate) trait Context<T> {
    /// `what` begins with a verb: "open /dev/null".
    fn context(self, what: impl Into<String>) -> Result<T>;
    /// For texts that cost something to make.
    fn with_context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::System { what: what.into(), source: source.into() })
    }

    fn with_context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::System { what: what(), source: source.into() })
    }
}
