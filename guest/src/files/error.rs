//! System errors as answers.

use std::io;

use rustix::io::Errno;

use crate::protocol::{ErrorKind, GuestError};

/// A failure of this kind with this text.
pub(super) fn failure(kind: ErrorKind, message: impl Into<String>) -> GuestError {
    GuestError { kind, message: message.into() }
}

/// The class of a system error.
fn classify(e: Errno) -> ErrorKind {
    match e {
        Errno::NOENT | Errno::NOTDIR => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::PermissionDenied,
        Errno::EXIST | Errno::NOTEMPTY | Errno::BUSY | Errno::TXTBSY => ErrorKind::Conflict,
        Errno::INVAL | Errno::NAMETOOLONG | Errno::ISDIR | Errno::LOOP => ErrorKind::Invalid,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ErrorKind::NoSpace,
        Errno::OPNOTSUPP | Errno::NOSYS => ErrorKind::NotSupported,
        _ => ErrorKind::Other,
    }
}

/// `e` as the failure to do `what` to `path`.
pub(super) fn errno(e: Errno, what: &str, path: &str) -> GuestError {
    failure(classify(e), format!("cannot {what} {path:?}: {}", io::Error::from(e)))
}

/// The same for an error of the standard library.
pub(super) fn io(e: &io::Error, what: &str, path: &str) -> GuestError {
    let kind = Errno::from_io_error(e).map_or(ErrorKind::Other, classify);
    failure(kind, format!("cannot {what} {path:?}: {e}"))
}

/// Adds to a system error what was tried on which path.
pub(super) trait Context<T> {
    /// The error as the failure to do `what` to `path`.
    fn context(self, what: &str, path: &str) -> Result<T, GuestError>;
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context(self, what: &str, path: &str) -> Result<T, GuestError> {
        self.map_err(|e| errno(e, what, path))
    }
}
