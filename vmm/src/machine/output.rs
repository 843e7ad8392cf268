//! What the guest prints, on its way from the CPU that prints to the owner of the console.
//!
//! A serial port prints a byte at a time. The owner is woken for the bytes of [`BATCH`] together, not for each.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

/// Bytes kept for an owner that is busy. A guest's port makes a few hundred thousand a second at most, and the owner
/// never waits for anybody, so this is never reached but by a fault; then output is lost rather than memory.
const CAPACITY: usize = 1024 * 1024;
/// From the first byte to the waking of the owner: shorter than anybody notices, longer than a line takes.
const BATCH: Duration = Duration::from_millis(2);

struct Shared {
    bytes: Mutex<Vec<u8>>,
    /// Runs while there are bytes the owner has not taken.
    timer: OwnedFd,
}

/// The printing end.
pub struct OutputSender(Arc<Shared>);

/// The owner's end.
pub struct OutputReceiver(Arc<Shared>);

/// Both ends.
pub fn output() -> io::Result<(OutputSender, OutputReceiver)> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let shared = Arc::new(Shared { bytes: Mutex::new(Vec::new()), timer });
    Ok((OutputSender(shared.clone()), OutputReceiver(shared)))
}

impl Shared {
    fn wake_soon(&self) -> io::Result<()> {
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let batch = Timespec { tv_sec: 0, tv_nsec: BATCH.subsec_nanos().into() };
        let timer = Itimerspec { it_interval: once, it_value: batch };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
        Ok(())
    }
}

impl Write for OutputSender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let was_empty = {
            let mut kept = self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            let room = CAPACITY - kept.len();
            let was_empty = kept.is_empty();
            kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
            was_empty
        };
        if was_empty {
            self.0.wake_soon()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OutputReceiver {
    /// Everything printed since.
    pub fn take(&self) -> Vec<u8> {
        // Before the bytes are taken, so that what comes later wakes again. Nothing to read is as good as read.
        let _ = rustix::io::read(&self.0.timer, &mut [0; 8]);
        std::mem::take(&mut *self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for OutputReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_arrives_in_batches_and_is_bounded() {
        let (mut sender, receiver) = output().unwrap();
        sender.write_all(b"a").unwrap();
        sender.write_all(b"b").unwrap();
        let mut watched = [rustix::event::PollFd::new(&receiver, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut watched, None).unwrap();
        assert_eq!(receiver.take(), b"ab");
        assert!(receiver.take().is_empty());
        sender.write_all(&vec![0; CAPACITY + 5]).unwrap();
        assert_eq!(receiver.take().len(), CAPACITY);
        sender.write_all(b"c").unwrap();
        rustix::event::poll(&mut watched, None).unwrap();
        assert_eq!(receiver.take(), b"c");
    }
}
