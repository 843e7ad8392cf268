//! epoll with tokens.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::{Timespec, epoll};

/// What to wait for, and what happened.
pub use rustix::event::epoll::EventFlags as Events;

/// Events taken out of the kernel at once.
const BATCH: usize = 64;

/// A set of descriptors to wait for. Dropping it forgets all of them.
pub struct Poller {
    epoll: OwnedFd,
    interrupted: Arc<AtomicBool>,
}

impl Poller {
    /// Nothing to wait for yet. `interrupted` is set while the loop is wanted elsewhere.
    pub(super) fn new(interrupted: Arc<AtomicBool>) -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, interrupted })
    }

    /// Whether a vCPU waits for the device to stop: an engine that does slow work looks here between two pieces.
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Waits for `events` of `fd` too, and reports them with `token`.
    pub fn add(&self, fd: impl AsFd, token: u64, events: Events) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), events)?)
    }

    /// Changes what is waited for.
    pub fn modify(&self, fd: impl AsFd, token: u64, events: Events) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), events)?)
    }

    /// Forgets `fd`.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until something happened or `deadline` is over; fills `happened`.
    pub(super) fn wait(&self, deadline: Option<Instant>, happened: &mut Vec<(u64, Events)>) -> io::Result<()> {
        happened.clear();
        let mut raw = [epoll::Event { flags: Events::empty(), data: epoll::EventData::new_u64(0) }; BATCH];
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up to whole milliseconds, so that the deadline is over when the wait is.
            let millis = i64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i64::MAX);
            Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
        });
        match epoll::wait(&self.epoll, &mut raw, timeout.as_ref()) {
            Ok(count) => happened.extend(raw[..count].iter().map(|event| (event.data.u64(), event.flags))),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }
}
