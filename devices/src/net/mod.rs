//! virtio-net on a tap device.

use std::io;
use std::os::fd::OwnedFd;

use crate::virtio::{ActivateError, Activation, VirtioDevice, device_type};
use crate::worker::ThreadSetup;

/// What a network card is.
#[derive(Debug)]
pub struct NetConfig {
    /// Name of its thread and in the log: `net0`.
    pub name: String,
    /// A tap device opened with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`; made non-blocking here.
    pub tap: OwnedFd,
    /// MAC address of the guest's card.
    pub mac: [u8; 6],
    /// MTU told to the guest.
    pub mtu: u16,
}

/// A virtio network card.
pub struct Net {}

impl Net {
    /// Makes the card and its (idle) thread.
    pub fn new(_config: NetConfig, _setup: &ThreadSetup) -> io::Result<Self> {
        Ok(Self {})
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        device_type::NET
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256, 256]
    }
    fn features(&self) -> u64 {
        0
    }
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    fn activate(&mut self, _activation: Activation) -> Result<(), ActivateError> {
        Ok(())
    }
    fn reset(&mut self) {}
}

pub(crate) const SYSCALLS: &[libc::c_long] = &[];
