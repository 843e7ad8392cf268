//! The one place of this crate that needs `unsafe`: handing descriptors to a child and to tokio.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use tokio::io::unix::AsyncFd;
use tokio::process::Command;

/// Makes the child find `fd` as descriptor `number`, in a session of its own. `fd` is closed here when the
/// command is dropped.
pub(crate) fn hand_over(command: &mut Command, fd: OwnedFd, number: RawFd) {
    let install = move || {
        let source = fd.as_raw_fd();
        if source == number {
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?;
        } else {
            // SAFETY: runs in the child between fork and exec; whatever stood at `number` there was close-on-exec
            // and nobody in the child uses it any more. `into_raw` below keeps the duplicate open for the program.
            let mut target = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
            rustix::io::dup2(&fd, &mut target)?;
        }
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: the closure calls fcntl, dup2 and setsid only, all async-signal-safe, and does not allocate.
    unsafe { command.pre_exec(install) };
}

/// Lets tokio watch a non-blocking descriptor.
pub(crate) fn watch(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open and the same for its whole life.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
