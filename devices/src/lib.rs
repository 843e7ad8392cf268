//! Device models of Berth's virtual machines.
//!
//! | module | owns |
//! |---|---|
//! | [`bus`] | the trait of what sits on a port or memory bus |
//! | [`pci`] | configuration space, BARs, MSI-X, the root bus |
//! | [`virtio`] | the status machine, rings, and the PCI transport |
//! | [`saved`] | state that outlives the process: sections with kind and version |
//! | [`rate`] | token buckets for the limits of disks and network cards |
//! | [`worker`] | the thread on which a device runs its queues |
//! | [`seccomp`] | what each kind of thread may ask of the kernel |
//! | [`block`], [`net`], [`vsock`], [`rng`] | virtio devices |
//! | [`serial`], [`rtc`], [`i8042`] | what remains of a PC |
//!
//! Nothing here knows KVM. A machine hands in two seams, [`pci::MsixBackend`] (interrupts) and [`virtio::Kicks`]
//! (notifications), and places the BARs; tests hand in fakes.

pub mod block;
pub mod bus;
pub mod i8042;
mod limit;
pub mod net;
pub mod pci;
pub mod rate;
pub mod rng;
pub mod rtc;
pub mod saved;
pub mod seccomp;
pub mod serial;
pub mod virtio;
pub mod vsock;
pub mod worker;

#[cfg(test)]
mod test_utils;

pub use bus::BusDevice;

/// Guest memory as every device sees it. The bitmap records pages that devices wrote, for live migration.
pub type Memory = vm_memory::GuestMemoryMmap<vm_memory::bitmap::AtomicBitmap>;
