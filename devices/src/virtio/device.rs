//! The trait of a virtio device and what it gets when the driver is ready.

use std::io;

use super::{ActiveQueue, Interrupt, QueuePosition};
use crate::Memory;
use crate::saved::{Sections, StateError};

/// Device types of the specification.
pub mod device_type {
    /// Network card.
    pub const NET: u32 = 1;
    /// Block device.
    pub const BLOCK: u32 = 2;
    /// Entropy source.
    pub const RNG: u32 = 4;
    /// Socket device.
    pub const VSOCK: u32 = 19;
}

/// A virtio device, whatever the transport.
///
/// ```text
///            activate            reset
///   idle  ─────────────▶ active ───────▶ idle
/// ```
///
/// [`VirtioState`](super::VirtioState) calls `activate` once the driver set DRIVER_OK and never twice without a `reset`
/// between; `reset` may come at any time. Both are called on a vCPU thread. The device runs its queues on its own
/// thread (see [`crate::worker`]); after `reset` returned nothing of the device touches guest memory any more.
pub trait VirtioDevice: Send {
    /// Type of [`device_type`].
    fn device_type(&self) -> u32;
    /// Largest size of each queue, powers of two; the number of queues is fixed.
    fn queue_sizes(&self) -> &[u16];
    /// Feature bits of the device itself. VERSION_1, RING_INDIRECT_DESC and RING_EVENT_IDX are added by the state
    /// machine.
    fn features(&self) -> u64;
    /// Reads the device's configuration; bytes past its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes the device's configuration; most devices have nothing to write.
    fn write_config(&mut self, offset: u64, data: &[u8]);
    /// The driver is ready. An error makes the device ask for a reset (DEVICE_NEEDS_RESET).
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;
    /// The machine is about to be saved, or restored: the device touches nothing of the guest before
    /// [`resume`](Self::resume). Returns when that is so, with the positions of its queues; none of an active device means
    /// that it is broken. All other calls may come meanwhile.
    fn hold(&mut self) -> Vec<QueuePosition>;
    /// The device goes on after [`hold`](Self::hold).
    fn resume(&mut self);
    /// Adds what the driver was told of the device `name`; status, features and queues are saved by others.
    fn save(&self, name: &str, sections: &mut Sections) -> Result<(), StateError>;
    /// Takes that out again, on an idle device, and refuses what the device is not any more.
    fn restore(&mut self, name: &str, sections: &mut Sections) -> Result<(), StateError>;
    /// The host may have changed what the device stands for; tells whether its configuration is another one now. Most
    /// devices stand for nothing that changes.
    fn look_again(&mut self) -> io::Result<bool> {
        Ok(false)
    }
    /// Back to idle. Returns when the device's thread let go of queues and memory.
    fn reset(&mut self);
}

/// How a device came to be active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Its driver set it up.
    Fresh,
    /// Its driver set up another one, whose state this one continues. Every queue was notified.
    Restored,
}

/// What a device works with until its reset.
pub struct Activation {
    /// See [`Start`].
    pub start: Start,
    /// Guest memory.
    pub memory: Memory,
    /// Features both sides agreed on.
    pub features: u64,
    /// The queues the driver enabled, in ascending order.
    pub queues: Vec<ActiveQueue>,
    /// For configuration changes and for asking for a reset.
    pub interrupt: Interrupt,
}

impl Activation {
    /// Takes the queue numbered `index` out.
    pub fn take_queue(&mut self, index: u16) -> Result<ActiveQueue, ActivateError> {
        let at = self.queues.iter().position(|queue| queue.index() == index);
        at.map(|at| self.queues.remove(at)).ok_or(ActivateError::QueueMissing(index))
    }
}

/// Why a device did not become active.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver left out a queue without which the device cannot work.
    #[error("the guest's driver did not enable queue {0} of the device; it is reset to try again")]
    QueueMissing(u16),
    /// The device's thread is gone.
    #[error("the device's thread ended; restart the instance")]
    WorkerGone,
    /// A system call failed.
    #[error("the device could not start: {0}")]
    Io(#[from] io::Error),
}

/// Copies the part of the configuration `space` at `offset` into `data`; bytes past its end stay as they are.
pub fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(space.len());
    let len = data.len().min(space.len() - start);
    data[..len].copy_from_slice(&space[start..start + len]);
}
