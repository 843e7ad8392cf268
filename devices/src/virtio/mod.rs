//! virtio 1.2, transport-neutral: the device trait, the status machine, rings; and the PCI transport.

pub mod chain;
pub(crate) mod device;
pub mod interrupt;
pub mod iovec;
pub mod pci;
mod queue;
mod saved;
pub mod state;
#[cfg(test)]
mod tests;

pub use chain::{Buffers, Chain, RingError, Segment};
pub use device::{ActivateError, Activation, Start, VirtioDevice, device_type};
pub use interrupt::{Interrupt, InterruptLine};
pub use iovec::IoVecs;
pub use pci::{Kicks, VirtioPci};
pub use queue::{ActiveQueue, QueuePosition};
pub use saved::SavedState;
pub use state::VirtioState;
