//! virtio over PCI (modern only).

use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::VirtioDevice;
use crate::Memory;
use crate::pci::{BarRequest, MsixBackend, PciDevice};

/// The machine's way to turn a guest's write to an address into an eventfd (KVM: ioeventfd, memory, any length, no
/// datamatch).
pub trait Kicks: Send {
    /// From now on a guest write at `address` signals `fd`.
    fn register(&mut self, address: u64, fd: &EventFd) -> io::Result<()>;
    /// Undoes [`register`](Self::register) with the same arguments.
    fn unregister(&mut self, address: u64, fd: &EventFd) -> io::Result<()>;
}

/// A virtio device on the PCI bus.
pub struct VirtioPci {}

impl VirtioPci {
    /// Number of MSI-X vectors `device` uses: one for the configuration and one for each queue. The [`MsixBackend`]
    /// must have as many.
    pub fn vectors(device: &dyn VirtioDevice) -> u16 {
        device.queue_sizes().len() as u16 + 1
    }

    /// Puts `device` behind a PCI function. `name` names it in the log (`disk0`, `eth0`).
    pub fn new(
        _name: &str,
        _device: Box<dyn VirtioDevice>,
        _memory: Memory,
        _msix: Box<dyn MsixBackend>,
        _kicks: Box<dyn Kicks>,
    ) -> io::Result<Self> {
        Ok(Self {})
    }
}

impl PciDevice for VirtioPci {
    fn config_read(&mut self, _register: u16, _data: &mut [u8]) {}
    fn config_write(&mut self, _register: u16, _data: &[u8]) {}
    fn bars(&self) -> Vec<BarRequest> {
        Vec::new()
    }
    fn set_bar_address(&mut self, _index: u8, _addr: u64) {}
    fn bar_address(&self, _index: u8) -> Option<u64> {
        None
    }
    fn bar_read(&mut self, _index: u8, _offset: u64, _data: &mut [u8]) {}
    fn bar_write(&mut self, _index: u8, _offset: u64, _data: &[u8]) {}
}
