//! Raising interrupts from a device's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::state::status;

/// What an interrupt tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The configuration or the status of the device changed.
    Config,
    /// The device used buffers of this queue.
    Queue(u16),
}

/// How a transport delivers interrupts.
pub trait InterruptLine: Send + Sync {
    /// Tells the driver. Called from device threads; must not block.
    fn raise(&self, source: Source);
}

/// The parts of a device's state that its thread and the transport share.
#[derive(Debug, Default)]
pub struct SharedStatus {
    bits: AtomicU8,
    generation: AtomicU8,
}

impl SharedStatus {
    /// The status byte.
    pub fn get(&self) -> u8 {
        self.bits.load(Ordering::Acquire)
    }

    /// Sets the status byte, keeping what the device's thread added meanwhile.
    pub(super) fn add(&self, bits: u8) {
        self.bits.fetch_or(bits, Ordering::AcqRel);
    }

    /// Clears the status byte. No thread of the device may be active.
    pub(super) fn clear(&self) {
        self.bits.store(0, Ordering::Release);
    }

    /// Takes over the status byte and the counter of a saved device. No thread of the device may be active.
    pub(super) fn set(&self, bits: u8, generation: u8) {
        self.bits.store(bits, Ordering::Release);
        self.generation.store(generation, Ordering::Release);
    }

    /// The configuration is another one now.
    pub(super) fn count_change(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts changes of the configuration.
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }
}

/// Raises the vector of one queue, or the configuration vector. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Interrupt {
    line: Arc<dyn InterruptLine>,
    status: Arc<SharedStatus>,
    source: Source,
}

impl Interrupt {
    /// An interrupt of `source` through `line`.
    pub fn new(line: Arc<dyn InterruptLine>, status: Arc<SharedStatus>, source: Source) -> Self {
        Self { line, status, source }
    }

    /// Raises it.
    pub fn raise(&self) {
        self.line.raise(self.source);
    }

    /// Tells the driver that the configuration changed.
    pub fn config_changed(&self) {
        self.status.count_change();
        self.line.raise(Source::Config);
    }

    /// Tells the driver that the device is broken until it is reset.
    pub fn needs_reset(&self) {
        self.status.add(status::NEEDS_RESET);
        self.line.raise(Source::Config);
    }
}
