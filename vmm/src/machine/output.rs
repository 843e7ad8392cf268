//! What the guest prints, on its way from the CPU that prints to the owner of the console.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::signal::borrow;

/// Bytes kept for an owner that is busy. A guest's port makes a few hundred thousand a second at most, and the owner
/// never waits for anybody, so this is never reached but by a fault; then output is lost rather than memory.
const CAPACITY: usize = 1024 * 1024;

struct Shared {
    bytes: Mutex<Vec<u8>>,
    wake: EventFd,
}

/// The printing end.
pub struct OutputSender(Arc<Shared>);

/// The owner's end.
pub struct OutputReceiver(Arc<Shared>);

/// Both ends.
pub fn output() -> io::Result<(OutputSender, OutputReceiver)> {
    let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
    let shared = Arc::new(Shared { bytes: Mutex::new(Vec::new()), wake });
    Ok((OutputSender(shared.clone()), OutputReceiver(shared)))
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
            // Only the first byte after the owner took everything needs to wake it.
            self.0.wake.write(1)?;
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
        // Before the bytes are taken, so that what comes later wakes again.
        let _ = self.0.wake.read();
        std::mem::take(&mut *self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsFd for OutputReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.0.wake)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_arrives_and_is_bounded() {
        let (mut sender, receiver) = output().unwrap();
        sender.write_all(b"a").unwrap();
        sender.write_all(b"b").unwrap();
        assert_eq!(receiver.0.wake.read().unwrap(), 1, "one wake-up for both");
        assert_eq!(receiver.take(), b"ab");
        assert!(receiver.take().is_empty());
        sender.write_all(&vec![0; CAPACITY + 5]).unwrap();
        assert_eq!(receiver.take().len(), CAPACITY);
    }
}
