//! Frames from the guest to the tap.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use tracing::debug;

use super::config::{HEADER, MAX_FRAME};
use crate::Memory;
use crate::rate::Pace;
use crate::virtio::{ActiveQueue, Chain, IoVecs, QueuePosition, RingError};

/// Frames sent before the loop looks at other events.
const BUDGET: usize = 128;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// The transmit queue.
pub struct Transmitter {
    queue: ActiveQueue,
    chain: Chain,
    blocked: bool,
    pace: Pace,
    /// When the rate allows the next frame, if it does not now.
    paused: Option<Instant>,
}

impl Transmitter {
    /// Nothing sent yet.
    pub fn new(queue: ActiveQueue, pace: Pace) -> Self {
        Self { queue, chain: Chain::default(), blocked: false, pace, paused: None }
    }

    /// Whether a frame waits for room in the tap.
    pub fn blocked(&self) -> bool {
        self.blocked
    }

    /// Until when the rate allows no frame.
    pub fn paused(&self) -> Option<Instant> {
        self.paused
    }

    /// Goes on at another pace.
    pub fn set_pace(&mut self, pace: Pace) {
        (self.pace, self.paused) = (pace, None);
    }

    /// Where the queue stands; a frame that waits for room is as good as never taken.
    pub fn position(&self) -> QueuePosition {
        self.queue.position(0)
    }

    /// Takes note of the driver's notification.
    pub fn clear_kick(&self) {
        self.queue.clear_kick();
    }

    /// Sends what the guest has.
    pub fn run(&mut self, memory: &Memory, link: &impl AsFd) -> Result<(), RingError> {
        self.blocked = false;
        self.paused = None;
        self.queue.disable_kicks(memory)?;
        for _ in 0..BUDGET {
            self.paused = self.pace.blocked(Instant::now);
            if self.paused.is_some() {
                return self.queue.notify(memory);
            }
            if !self.queue.pop(memory, &mut self.chain)? {
                if self.queue.enable_kicks(memory)? {
                    self.queue.disable_kicks(memory)?;
                    continue;
                }
                return self.queue.notify(memory);
            }
            if !self.send(memory, link)? {
                self.queue.undo_pop();
                self.blocked = true;
                return self.queue.notify(memory);
            }
            self.pace.passed(Instant::now, self.chain.readable.len().saturating_sub(HEADER) as u64);
            self.queue.push(memory, self.chain.head, 0)?;
        }
        self.queue.kick_again();
        self.queue.notify(memory)
    }

    /// Sends the frame of the current chain; false if the tap has no room. What cannot be a frame is dropped, as a
    /// card would.
    fn send(&self, memory: &Memory, link: &impl AsFd) -> Result<bool, RingError> {
        let len = self.chain.readable.len();
        if !(HEADER + ETHERNET..=MAX_FRAME).contains(&len) {
            debug!(len, "frame of the guest has an impossible length; dropped");
            return Ok(true);
        }
        let vecs = IoVecs::new(memory, self.chain.readable.range(0, len))?;
        match vecs.write_to(link) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // A header the kernel refuses, or an interface that is down.
            Err(error) => debug!(len, %error, "frame of the guest was not taken; dropped"),
            Ok(_) => {}
        }
        Ok(true)
    }
}
