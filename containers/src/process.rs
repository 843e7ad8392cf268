//! Child processes by their pidfd, and fresh executions of this very binary.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::mount::OpenTreeFlags;
use rustix::process::{WaitId, WaitIdOptions};

use crate::error::{Context, Result};
use crate::sys;

/// Descriptor on which a helper finds its socket.
pub(crate) const HELPER_FD: i32 = 3;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i32),
    Signaled(i32),
}

impl End {
    /// As a shell tells it.
    pub(crate) fn status(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => 128 + signal,
        }
    }
}

/// Kills the process; one that is gone is as good.
pub(crate) fn kill(pidfd: BorrowedFd<'_>) {
    let _ = sys::pidfd_signal(pidfd, libc::SIGKILL);
}

/// Waits for a child and reaps it.
pub(crate) fn wait(pidfd: BorrowedFd<'_>) -> io::Result<End> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
            Ok(None) => return Err(io::ErrorKind::NotFound.into()),
            Ok(Some(status)) => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => End::Exited(code),
                    (None, Some(signal)) => End::Signaled(signal),
                    (None, None) => End::Exited(-1),
                });
            }
        }
    }
}

/// This binary, through a mount of its own that is read-only and in no namespace: what runs from it inside a
/// container cannot be used to write to the host's file, whoever owns that (CVE-2019-5736), and an upgrade of the
/// package does not change what a running monitor executes.
#[derive(Debug)]
pub(crate) struct OwnBinary(OwnedFd);

impl OwnBinary {
    pub(crate) fn open() -> Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let path = std::env::current_exe().context("find the own binary")?;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, &path, flags)
            .with_context(|| format!("open {}", path.display()))?;
        let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        sys::mount_setattr(tree.as_fd(), attributes, None, false)
            .with_context(|| format!("make the view of {} read-only", path.display()))?;
        Ok(Self(tree))
    }

    /// Starts helper `mode` with `socket` as descriptor [`HELPER_FD`].
    pub(crate) fn spawn(&self, mode: &str, socket: OwnedFd) -> Result<OwnedFd> {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        command.arg0("berth-container").arg(mode).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let socket_fd = socket.as_raw_fd();
        // SAFETY: between fork and exec only system calls are made; the socket is open until the call returns.
        unsafe {
            command.pre_exec(move || {
                sys::unblock_signals()?;
                sys::install_fd(BorrowedFd::borrow_raw(socket_fd), HELPER_FD)
            });
        }
        let child = command.spawn().with_context(|| format!("start the {mode} helper"))?;
        drop(socket);
        let pid = rustix::process::Pid::from_child(&child);
        // The child is not reaped before its pidfd is, so the number cannot have been given away.
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .with_context(|| format!("watch the {mode} helper"))
    }
}
