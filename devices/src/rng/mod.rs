//! virtio-rng fed by the host's getrandom.

use std::io;

use crate::virtio::{ActivateError, Activation, VirtioDevice, device_type};
use crate::worker::ThreadSetup;

/// The entropy source.
pub struct Rng {}

impl Rng {
    /// Makes the device and its (idle) thread.
    pub fn new(_setup: &ThreadSetup) -> io::Result<Self> {
        Ok(Self {})
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        device_type::RNG
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64]
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
