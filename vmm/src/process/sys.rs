//! SIGTERM and SIGINT as a descriptor, the fork of the process, and other small things that need unsafe code.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Readable when the process was asked to end. The signals do nothing else from then on.
pub struct Termination(OwnedFd);

impl Termination {
    /// Call before any thread is begun: threads inherit which signals are blocked.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the set is initialized by sigemptyset before it is used; the descriptor is new and owned by nobody
        // else.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGTERM);
            libc::sigaddset(&mut set, libc::SIGINT);
            match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
                0 => {}
                error => return Err(io::Error::from_raw_os_error(error)),
            }
            match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(io::Error::last_os_error()),
                fd => Ok(Self(OwnedFd::from_raw_fd(fd))),
            }
        }
    }
}

impl Termination {
    /// Takes one signal.
    pub fn take(&self) {
        // None to take is as good as taken.
        let _ = rustix::io::read(&self.0, &mut [0; size_of::<libc::signalfd_siginfo>()]);
    }
}

impl AsFd for Termination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: called first thing in the process, when nothing owns a descriptor above the handshake's.
    match unsafe { libc::close_range(first, u32::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves namespaces for new ones; a process namespace is that of the next child.
pub fn leave_namespaces(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the set is not asked to part the table of descriptors, which alone could pull one from under another thread.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags.difference(UnshareFlags::FILES)) }?)
}

/// Which side of a [`fork`] the caller is on.
pub enum Fork {
    /// The parent, with the child's process id.
    Parent(Pid),
    /// The child, which must not go back into the parent's code.
    Child,
}

/// Forks.
///
/// # Safety
/// The process has a single thread: the child is a copy of it and goes on to allocate.
pub unsafe fn fork() -> io::Result<Fork> {
    // SAFETY: the caller vouches for the single thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        child => Pid::from_raw(child).map(Fork::Parent).ok_or_else(|| io::Error::other("a fork gave no process id")),
    }
}

/// Ends the process with the status that `body` gives; nothing of a parent's is flushed or dropped twice.
pub fn end_with(body: impl FnOnce() -> i32) -> ! {
    let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
    // SAFETY: has no preconditions.
    unsafe { libc::_exit(status) }
}
