//! One queue of an active device: taking chains, giving them back, and saying so only when the driver listens.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::Interrupt;
use super::chain::{Chain, RingError};
use crate::Memory;

/// One queue of an active device.
///
/// The used ring is written here, not by [`Queue::add_used`], because a network packet over several buffers must
/// become visible in one step.
pub struct ActiveQueue {
    index: u16,
    queue: Queue,
    kick: Arc<EventFd>,
    interrupt: Interrupt,
    /// Buffers published since the last [`notify`](Self::notify).
    added: Wrapping<u16>,
}

/// Where the device's side of a queue stands. The driver's side is in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueuePosition {
    /// Number of the queue.
    pub index: u16,
    /// The next entry of the available ring to be taken.
    pub next_available: u16,
    /// The next entry of the used ring to be written.
    pub next_used: u16,
}

impl ActiveQueue {
    /// Queue `index`; `queue` was validated against guest memory.
    pub fn new(index: u16, queue: Queue, kick: Arc<EventFd>, interrupt: Interrupt) -> Self {
        Self { index, queue, kick, interrupt, added: Wrapping(0) }
    }

    /// Its number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Where it stands, when `kept` of the chains popped last were not given back.
    pub fn position(&self, kept: u16) -> QueuePosition {
        let next_available = self.queue.next_avail().wrapping_sub(kept);
        QueuePosition { index: self.index, next_available, next_used: self.queue.next_used() }
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Readable when the driver notified the device.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// Takes note of the driver's notification.
    pub fn clear_kick(&self) {
        // The counter may be empty: a notification is a hint.
        let _ = self.kick.read();
    }

    /// Makes the device's loop come back to this queue after other events.
    pub fn kick_again(&self) {
        // Fails only if the counter is full, and then the loop comes back anyway.
        let _ = self.kick.write(1);
    }

    /// Takes the next chain the driver made available into `chain`; false if there is none. An error means that the
    /// ring cannot be trusted any more.
    pub fn pop(&mut self, memory: &Memory, chain: &mut Chain) -> Result<bool, RingError> {
        let size = self.queue.size();
        match self.queue.iter(memory)?.next() {
            Some(descriptors) => chain.fill(memory, descriptors, size).map(|()| true),
            None => Ok(false),
        }
    }

    /// Puts the chain that was popped last back.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives one chain back, with `len` bytes written into it.
    pub fn push(&mut self, memory: &Memory, head: u16, len: u32) -> Result<(), RingError> {
        self.push_all(memory, &[(head, len)])
    }

    /// Gives chains back so that the driver sees all of them or none.
    pub fn push_all(&mut self, memory: &Memory, used: &[(u16, u32)]) -> Result<(), RingError> {
        let mut next = Wrapping(self.queue.next_used());
        for &(head, len) in used {
            let slot = u64::from(next.0 % self.queue.size());
            let mut element = [0; 8];
            element[..4].copy_from_slice(&u32::from(head).to_le_bytes());
            element[4..].copy_from_slice(&len.to_le_bytes());
            memory.write_slice(&element, GuestAddress(self.queue.used_ring() + 4 + slot * 8))?;
            next += 1;
        }
        memory.store(next.0.to_le(), GuestAddress(self.queue.used_ring() + 2), Ordering::Release)?;
        self.queue.set_next_used(next.0);
        self.added += used.len() as u16;
        Ok(())
    }

    /// Raises the queue's interrupt if the driver wants to hear of what was given back since the last call.
    pub fn notify(&mut self, memory: &Memory) -> Result<(), RingError> {
        if self.added.0 == 0 {
            return Ok(());
        }
        // What was published must be visible before the driver's wish is read, or both sides would wait.
        fence(Ordering::SeqCst);
        let next = Wrapping(self.queue.next_used());
        let wanted = if self.queue.event_idx_enabled() {
            let event_at = self.queue.avail_ring() + 4 + 2 * u64::from(self.queue.size());
            let event: u16 = memory.load(GuestAddress(event_at), Ordering::Relaxed)?;
            next - Wrapping(u16::from_le(event)) - Wrapping(1) < self.added
        } else {
            let flags: u16 = memory.load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)?;
            u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0
        };
        self.added = Wrapping(0);
        if wanted {
            self.interrupt.raise();
        }
        Ok(())
    }

    /// Asks the driver for notifications; true if chains became available meanwhile, for which none will come.
    pub fn enable_kicks(&mut self, memory: &Memory) -> Result<bool, RingError> {
        Ok(self.queue.enable_notification(memory)?)
    }

    /// Tells the driver that notifications are not needed at present.
    pub fn disable_kicks(&mut self, memory: &Memory) -> Result<(), RingError> {
        Ok(self.queue.disable_notification(memory)?)
    }
}
