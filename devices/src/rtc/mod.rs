//! The CMOS clock (ports 0x70 and 0x71).

use crate::BusDevice;

/// A clock that shows the host's time in UTC. Offset 0 is the index port, 1 the data port.
#[derive(Debug, Default)]
pub struct Rtc {}

impl Rtc {
    /// The clock.
    pub fn new() -> Self {
        Self {}
    }
}

impl BusDevice for Rtc {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}
    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}
