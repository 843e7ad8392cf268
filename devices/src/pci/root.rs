//! The root bus: bus 0 with a host bridge at 00:00.0 and up to 31 devices.

use super::{BarRequest, PciDevice};

/// Why the bus refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PciError {
    /// All 31 slots are taken.
    #[error("PCI bus 0 is full: it has place for 31 devices; remove a disk or network device from the instance")]
    Full,
}

/// Told when the guest moved a BAR or switched its decoding.
pub trait BarListener: Send {
    /// BAR `bar` of the device in `slot` decoded at `old` and decodes at `new` now; `None` is nowhere.
    fn moved(&mut self, slot: u8, bar: u8, old: Option<u64>, new: Option<u64>);
}

/// Bus 0. The machine keeps it behind a mutex: accesses of vCPUs to ECAM, to the configuration ports and to the BAR
/// window all end here. The fast paths (ioeventfd, irqfd) do not.
pub struct PciRoot {
    #[allow(dead_code)]
    devices: Vec<Box<dyn PciDevice>>,
}

impl Default for PciRoot {
    fn default() -> Self {
        Self::new()
    }
}

impl PciRoot {
    /// A bus with nothing but its host bridge.
    pub fn new() -> Self {
        Self { devices: Vec::new() }
    }

    /// Sets who is told of moved BARs. (virtio devices move their own ioeventfds.)
    pub fn set_bar_listener(&mut self, _listener: Box<dyn BarListener>) {}

    /// Puts `device` into the next free slot and returns its number, 1..=31. The machine then places its BARs with
    /// [`set_bar_address`](Self::set_bar_address).
    pub fn add(&mut self, device: Box<dyn PciDevice>) -> Result<u8, PciError> {
        self.devices.push(device);
        Ok(self.devices.len() as u8)
    }

    /// The BARs of the device in `slot`.
    pub fn bars(&self, _slot: u8) -> Vec<BarRequest> {
        Vec::new()
    }

    /// Places BAR `index` of the device in `slot` and switches memory decoding of the device on.
    pub fn set_bar_address(&mut self, _slot: u8, _index: u8, _addr: u64) {}

    /// Reads the ECAM window, `offset` from its start (bus 0: 1 MiB).
    pub fn ecam_read(&mut self, _offset: u64, _data: &mut [u8]) {}

    /// Writes the ECAM window.
    pub fn ecam_write(&mut self, _offset: u64, _data: &[u8]) {}

    /// Reads the configuration ports, `offset` from 0xcf8 (8 ports).
    pub fn port_read(&mut self, _offset: u64, _data: &mut [u8]) {}

    /// Writes the configuration ports.
    pub fn port_write(&mut self, _offset: u64, _data: &[u8]) {}

    /// Reads guest physical `addr` if a BAR decodes it; otherwise fills `data` with ones and returns false.
    pub fn mmio_read(&mut self, _addr: u64, _data: &mut [u8]) -> bool {
        false
    }

    /// Writes guest physical `addr` if a BAR decodes it; otherwise returns false.
    pub fn mmio_write(&mut self, _addr: u64, _data: &[u8]) -> bool {
        false
    }
}
