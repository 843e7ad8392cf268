//! virtio over PCI (modern only): a register map over [`VirtioState`](super::VirtioState).
//!
//! One 64-bit BAR holds everything:
//!
//! | offset | what |
//! |---|---|
//! | 0x0000 | common configuration |
//! | 0x1000 | ISR status (unused with MSI-X) |
//! | 0x2000 | device configuration |
//! | 0x3000 | notifications, 4 bytes a queue; an ioeventfd each while the device is active |
//! | 0x4000 | MSI-X table |
//! | 0x6000 | MSI-X pending bits |

mod common;
mod device;
mod line;
mod saved;
#[cfg(test)]
mod saved_tests;
#[cfg(test)]
mod tests;

use std::io;

use vmm_sys_util::eventfd::EventFd;

pub use device::VirtioPci;

/// The machine's way to turn a guest's write to an address into an eventfd (KVM: ioeventfd, memory, any length, no
/// datamatch).
pub trait Kicks: Send {
    /// From now on a guest write at `address` signals `fd`.
    fn register(&mut self, address: u64, fd: &EventFd) -> io::Result<()>;
    /// Undoes [`register`](Self::register) with the same arguments.
    fn unregister(&mut self, address: u64, fd: &EventFd) -> io::Result<()>;
}

/// Index of the only BAR.
const BAR: u8 = 0;
/// Its size.
const BAR_SIZE: u64 = 0x8000;
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x6000;
/// Most queues whose notifications and vectors fit into the map.
const MAX_QUEUES: usize = 256;
/// Bytes between the notification addresses of two queues.
const NOTIFY_STEP: u64 = 4;
