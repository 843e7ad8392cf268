//! Frames from the tap to the guest.
//!
//! How long a frame is shows only when it was read. So buffers for the largest one are taken from the ring before, and
//! stay taken: most frames use the first of them only.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use tracing::debug;
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;
use vm_memory::{Address, Bytes};

use super::config::HEADER;
use crate::Memory;
use crate::rate::Pace;
use crate::virtio::{ActiveQueue, Chain, IoVecs, QueuePosition, RingError, Segment};

/// Frames taken before the loop looks at other events.
const BUDGET: usize = 128;
/// Most segments of one read (the kernel's limit).
const MAX_SEGMENTS: usize = 1024;
/// Where the header counts the buffers of a frame.
const NUM_BUFFERS: usize = 10;

/// A buffer of the guest that waits for a frame.
struct Posted {
    head: u16,
    len: usize,
    segments: usize,
}

/// What came of trying to receive.
enum Outcome {
    Frame,
    /// No frame waits.
    Idle,
    /// The guest has too few buffers.
    Starved,
}

/// The receive queue.
pub struct Receiver {
    queue: ActiveQueue,
    chain: Chain,
    /// A frame may span several buffers.
    mergeable: bool,
    /// Room needed before a frame is read.
    largest: usize,
    posted: VecDeque<Posted>,
    /// The segments of all posted buffers.
    segments: VecDeque<Segment>,
    room: usize,
    used: Vec<(u16, u32)>,
    starved: bool,
    pace: Pace,
    /// When the rate allows the next frame, if it does not now.
    paused: Option<Instant>,
}

impl Receiver {
    /// Nothing received yet.
    pub fn new(queue: ActiveQueue, features: u64, largest: usize, pace: Pace) -> Self {
        Self {
            queue,
            chain: Chain::default(),
            mergeable: features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0,
            largest,
            posted: VecDeque::new(),
            segments: VecDeque::new(),
            room: 0,
            used: Vec::new(),
            starved: false,
            pace,
            paused: None,
        }
    }

    /// Whether the guest must give buffers before the tap is worth polling.
    pub fn starved(&self) -> bool {
        self.starved
    }

    /// Until when the rate allows no frame.
    pub fn paused(&self) -> Option<Instant> {
        self.paused
    }

    /// Goes on at another pace.
    pub fn set_pace(&mut self, pace: Pace) {
        (self.pace, self.paused) = (pace, None);
    }

    /// Where the queue stands: buffers that wait for frames are as good as never taken.
    pub fn position(&self) -> QueuePosition {
        self.queue.position(self.posted.len() as u16)
    }

    /// Takes note of the driver's notification.
    pub fn clear_kick(&self) {
        self.queue.clear_kick();
    }

    /// Receives what there is. The tap is polled by level, so what is left over comes back as an event.
    pub fn run(&mut self, memory: &Memory, link: &impl AsFd) -> Result<(), RingError> {
        self.starved = false;
        self.paused = None;
        self.queue.disable_kicks(memory)?;
        for _ in 0..BUDGET {
            self.paused = self.pace.blocked(Instant::now);
            if self.paused.is_some() {
                break;
            }
            match self.receive(memory, link)? {
                Outcome::Frame => {}
                Outcome::Idle => break,
                Outcome::Starved => {
                    if self.queue.enable_kicks(memory)? && !self.full() {
                        self.queue.disable_kicks(memory)?;
                        continue;
                    }
                    self.starved = true;
                    break;
                }
            }
        }
        self.queue.notify(memory)
    }

    fn full(&self) -> bool {
        self.segments.len() >= MAX_SEGMENTS
    }

    fn enough(&self) -> bool {
        if self.mergeable { self.room >= self.largest || self.full() } else { !self.posted.is_empty() }
    }

    /// Takes buffers from the ring until there is room for the largest frame.
    fn refill(&mut self, memory: &Memory) -> Result<bool, RingError> {
        while !self.enough() {
            if !self.queue.pop(memory, &mut self.chain)? {
                return Ok(false);
            }
            let (head, len) = (self.chain.head, self.chain.writable.len());
            let segments = self.chain.writable.segments();
            if len < HEADER || self.segments.len() + segments.len() > 2 * MAX_SEGMENTS {
                debug!(head, len, "receive buffer of the guest cannot hold a header; given back");
                self.queue.push(memory, head, 0)?;
                return Ok(false);
            }
            self.segments.extend(segments);
            self.posted.push_back(Posted { head, len, segments: segments.len() });
            self.room += len;
        }
        Ok(true)
    }

    fn receive(&mut self, memory: &Memory, link: &impl AsFd) -> Result<Outcome, RingError> {
        if !self.refill(memory)? {
            return Ok(Outcome::Starved);
        }
        let count = match self.posted.front() {
            Some(first) if !self.mergeable => first.segments,
            _ => self.segments.len().min(MAX_SEGMENTS),
        };
        let vecs = IoVecs::new(memory, self.segments.iter().take(count).copied())?;
        match vecs.read_from(link) {
            Ok(len) if len >= HEADER => {
                self.pace.passed(Instant::now, (len - HEADER) as u64);
                self.give(memory, len)?;
            }
            Ok(len) => debug!(len, "the tap gave less than a header"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Outcome::Idle),
            Err(error) => {
                debug!(%error, "the tap cannot be read");
                return Ok(Outcome::Idle);
            }
        }
        Ok(Outcome::Frame)
    }

    /// Gives the buffers that a frame of `len` bytes filled to the guest.
    fn give(&mut self, memory: &Memory, len: usize) -> Result<(), RingError> {
        self.used.clear();
        let mut left = len;
        let mut filled = 0;
        for posted in &self.posted {
            let part = posted.len.min(left);
            self.used.push((posted.head, part as u32));
            filled += posted.segments;
            left -= part;
            if left == 0 {
                break;
            }
        }
        let count = (self.used.len() as u16).to_le_bytes();
        for (at, byte) in (NUM_BUFFERS..).zip(count) {
            self.patch(memory, at, byte)?;
        }
        self.queue.push_all(memory, &self.used)?;
        self.room -= self.posted.drain(..self.used.len()).map(|posted| posted.len).sum::<usize>();
        self.segments.drain(..filled);
        Ok(())
    }

    /// Writes a byte of the header.
    fn patch(&self, memory: &Memory, at: usize, byte: u8) -> Result<(), RingError> {
        let mut skip = at;
        for segment in &self.segments {
            if skip < segment.len {
                memory.write_slice(&[byte], segment.address.unchecked_add(skip as u64))?;
                return Ok(());
            }
            skip -= segment.len;
        }
        Ok(())
    }
}
