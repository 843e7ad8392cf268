//! The device.

use std::io;
use std::time::Duration;

use super::config::VsockConfig;
use super::engine::VsockEngine;
use super::saved::SavedVsock;
use crate::saved::{Sections, StateError};
use crate::virtio::device::read_space;
use crate::virtio::{ActivateError, Activation, QueuePosition, VirtioDevice, device_type};
use crate::worker::{ThreadKind, ThreadSetup, Worker};

/// To the guest, from the guest, events.
const QUEUES: &[u16] = &[256, 256, 64];

/// How long a host program may take over its `CONNECT` line.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);

/// The socket device.
pub struct Vsock {
    cid: u64,
    worker: Worker,
}

impl Vsock {
    /// Makes the device and its (idle) thread. Host programs that connect before the guest's driver is ready wait.
    pub fn new(config: VsockConfig, setup: &ThreadSetup) -> io::Result<Self> {
        Self::with_line_timeout(config, LINE_TIMEOUT, setup)
    }

    pub(super) fn with_line_timeout(
        config: VsockConfig,
        line_timeout: Duration,
        setup: &ThreadSetup,
    ) -> io::Result<Self> {
        config.listener.set_nonblocking(true)?;
        let cid = u64::from(config.cid);
        let engine = VsockEngine::new(cid, config.listener, config.path, line_timeout);
        Ok(Self { cid, worker: Worker::spawn("vsock", ThreadKind::Vsock, engine, setup)? })
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        device_type::VSOCK
    }
    fn queue_sizes(&self) -> &[u16] {
        QUEUES
    }
    fn features(&self) -> u64 {
        0
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.cid.to_le_bytes(), offset, data);
    }
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.worker.activate(activation)
    }
    fn hold(&mut self) -> Vec<QueuePosition> {
        self.worker.hold()
    }
    fn resume(&mut self) {
        self.worker.resume();
    }
    fn save(&self, name: &str, sections: &mut Sections) -> Result<(), StateError> {
        sections.add(name, &SavedVsock { cid: self.cid })
    }
    fn restore(&mut self, name: &str, sections: &mut Sections) -> Result<(), StateError> {
        sections.take::<SavedVsock>(name).map(drop)
    }
    fn reset(&mut self) {
        self.worker.reset();
    }
}
