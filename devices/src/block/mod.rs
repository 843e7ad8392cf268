//! virtio-blk on a raw file.

use std::fs::File;
use std::io;

use crate::virtio::{ActivateError, Activation, VirtioDevice, device_type};
use crate::worker::ThreadSetup;

/// What a disk is.
#[derive(Debug)]
pub struct BlockConfig {
    /// Name of its thread and in the log: `blk0`.
    pub name: String,
    /// The raw image or block device, open for reading, and for writing unless `readonly`.
    pub file: File,
    /// Refuse writes.
    pub readonly: bool,
    /// Serial number the guest reads (`/dev/disk/by-id/virtio-…`), cut at 20 bytes.
    pub serial: String,
}

/// A virtio disk.
pub struct Block {}

impl Block {
    /// Makes the disk and its (idle) thread.
    pub fn new(_config: BlockConfig, _setup: &ThreadSetup) -> io::Result<Self> {
        Ok(Self {})
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        device_type::BLOCK
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256]
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
