//! How CPUs and devices tell the machine's owner that the guest wants something.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc;

use vmm_sys_util::eventfd::EventFd;

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestSignal {
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset itself.
    Reset,
    /// A virtual CPU cannot go on; the text says why.
    Failed(String),
}

/// The telling end; clones tell the same owner.
#[derive(Clone)]
pub struct SignalSender {
    queue: mpsc::Sender<GuestSignal>,
    wake: Arc<EventFd>,
}

/// The owner's end.
pub struct SignalReceiver {
    queue: mpsc::Receiver<GuestSignal>,
    wake: Arc<EventFd>,
    reset: EventFd,
}

/// Both ends.
pub fn signals() -> io::Result<(SignalSender, SignalReceiver)> {
    let (sender, receiver) = mpsc::channel();
    let eventfd = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
    let (wake, reset) = (Arc::new(eventfd()?), eventfd()?);
    Ok((SignalSender { queue: sender, wake: wake.clone() }, SignalReceiver { queue: receiver, wake, reset }))
}

impl SignalSender {
    /// Tells. Without an owner there is nobody who cares.
    pub fn send(&self, signal: GuestSignal) {
        if self.queue.send(signal).is_ok()
            && let Err(error) = self.wake.write(1)
        {
            tracing::error!(%error, "cannot wake the machine's owner");
        }
    }
}

impl SignalReceiver {
    /// The next thing told, if there is one.
    pub fn try_next(&self) -> Option<GuestSignal> {
        // Not readable means that nothing was told since, which the queue says as well.
        let _ = self.wake.read();
        let told = self.queue.try_recv().ok();
        told.or_else(|| self.reset.read().ok().map(|_| GuestSignal::Reset))
    }

    /// An eventfd that tells [`GuestSignal::Reset`], for a device that knows nothing of signals.
    pub fn reset_line(&self) -> io::Result<EventFd> {
        self.reset.try_clone()
    }

    /// What to watch: when one of these is readable, call [`try_next`](Self::try_next) until it has nothing more.
    pub fn watched(&self) -> [BorrowedFd<'_>; 2] {
        [borrow(&self.wake), borrow(&self.reset)]
    }
}

/// The descriptor of an eventfd.
pub fn borrow(fd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the eventfd owns its descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}
