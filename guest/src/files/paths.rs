//! Paths of requests, resolved below the served root.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::error::{Context, failure};
use crate::protocol::{ErrorKind, GuestError};

/// How often a resolution that raced with a rename is tried again.
const RESOLVE_TRIES: usize = 64;

/// The directory below which everything is served.
pub(super) struct Root(OwnedFd);

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, GuestError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).map(Self).context("open", &path.to_string_lossy())
    }

    /// Opens `path` as a process whose root this directory is would.
    pub(super) fn open_at(&self, path: &str, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
        // A trailing slash would make the kernel follow a link in spite of `NOFOLLOW`.
        let trimmed = path.trim_end_matches('/');
        let trimmed = if trimmed.is_empty() { "/" } else { trimmed };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..RESOLVE_TRIES {
            let mode = Mode::from_raw_mode(mode);
            result = rustix::fs::openat2(&self.0, trimmed, flags | OFlags::CLOEXEC, mode, resolve);
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        result
    }

    /// The directory that holds `path`, and the name in it; `None` for the root itself.
    pub(super) fn parent(&self, path: &str) -> Result<Option<(OwnedFd, Vec<u8>)>, GuestError> {
        let trimmed = path.trim_end_matches('/');
        if trimmed.is_empty() {
            return Ok(None);
        }
        let (directory, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        if name == "." || name == ".." {
            let text = format!("the path {path:?} must end in a name, not in {name:?}");
            return Err(failure(ErrorKind::Invalid, text));
        }
        let directory = if directory.is_empty() { "/" } else { directory };
        let parent =
            self.open_at(directory, OFlags::PATH | OFlags::DIRECTORY, 0).context("open the directory of", path)?;
        Ok(Some((parent, name.as_bytes().to_vec())))
    }
}
