//! The container's view of the file system.
//!
//! In two steps. The monitor, as the host's root, lays out the root that comes from the host in a mount namespace
//! of the host's making ([`stage`]). The container's first process takes a copy of that namespace: as the copy
//! belongs to another user namespace, the kernel locks the flags `nodev` and `ro` on these mounts for good, which
//! it does not do for a mount that is merely handed over. From the copy it builds its root ([`inside`]). Devices
//! go the same way, see [`crate::devices`].

pub(crate) mod inside;
pub(crate) mod stage;
pub(crate) mod target;
mod tree;

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Context, Result};
pub(crate) use tree::Tree;

/// Name of the root in the stage directory.
const ROOT: &str = "root";

/// The root as it comes from the host, for a process that is in the stage.
pub(crate) fn root() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, ROOT, flags, Mode::empty()).context("open the container's root")
}
