//! PCI: type 0 configuration space, 64-bit memory BARs, MSI-X, and the root bus with ECAM and BAR dispatch.

pub mod config;
pub mod msix;
pub mod root;

pub use config::{BarRequest, ConfigSpace, Identity};
pub use msix::{MsiMessage, Msix, MsixBackend};
pub use root::{BarListener, PciError, PciRoot};

use std::io;

use crate::saved::{Sections, StateError};

/// A function on the PCI bus.
///
/// The order of calls: [`bars`](Self::bars) and [`set_bar_address`](Self::set_bar_address) by the machine before the
/// guest runs; everything else by vCPU threads under the lock of the [`PciRoot`] that owns the device. Nothing may
/// block. The guest chooses every argument of the read and write calls.
pub trait PciDevice: Send {
    /// Reads configuration space at byte `register` (0..4096); fills all of `data`.
    fn config_read(&mut self, register: u16, data: &mut [u8]);
    /// Writes configuration space at byte `register` (0..4096).
    fn config_write(&mut self, register: u16, data: &[u8]);
    /// The memory BARs that need a place. The answer never changes.
    fn bars(&self) -> Vec<BarRequest>;
    /// Initial placement of BAR `index` by the machine. `addr` is aligned to the size of the BAR.
    fn set_bar_address(&mut self, index: u8, addr: u64);
    /// Where BAR `index` decodes at present: `None` while memory decoding is off or there is no such BAR.
    fn bar_address(&self, index: u8) -> Option<u64>;
    /// Reads `offset` of BAR `index`; fills all of `data`.
    fn bar_read(&mut self, index: u8, offset: u64, data: &mut [u8]);
    /// Writes `offset` of BAR `index`.
    fn bar_write(&mut self, index: u8, offset: u64, data: &[u8]);
    /// Holds the device and adds its state; no CPU of the guest runs. It goes on with [`resume`](Self::resume).
    fn save(&mut self, sections: &mut Sections) -> Result<(), StateError>;
    /// Takes the state of the same device of another process out and continues it, once [`resume`](Self::resume) is
    /// called. Comes after the machine placed the BARs, before any CPU runs.
    fn restore(&mut self, sections: &mut Sections) -> Result<(), StateError>;
    /// Lets a held device go on.
    fn resume(&mut self);
    /// Tells the driver if the host has changed what the device stands for.
    fn look_again(&mut self) -> io::Result<()>;
}
