//! Waiting for a process that is not a child.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Returns when the process has ended.
pub(crate) async fn exited(pidfd: &OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` always gives the same descriptor, and it stays open as long as the `AsyncFd` that owns it.
    let fd = unsafe { AsyncFd::register_with_interest(pidfd.try_clone()?, Interest::READABLE) };
    fd.map_err(io::Error::from)?.readable().await.map(drop)
}
