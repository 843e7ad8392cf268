//! virtio 1.2, transport-neutral: the device trait, the status machine, rings; and the PCI transport.

mod chain;
mod device;
mod interrupt;
pub mod pci;
pub mod state;

pub use device::{ActivateError, Activation, ActiveQueue, VirtioDevice, device_type};
pub use interrupt::Interrupt;
pub use pci::{Kicks, VirtioPci};
pub use state::VirtioState;
