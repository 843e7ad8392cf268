//! The device.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::config::{FEATURES, NetConfig, QUEUE_SIZE, space};
use super::engine::NetEngine;
use super::saved::SavedNet;
use super::tap::{Link, Tap};
use crate::saved::{Sections, StateError};
use crate::virtio::device::read_space;
use crate::virtio::{ActivateError, Activation, QueuePosition, VirtioDevice, device_type};
use crate::worker::{ThreadKind, ThreadSetup, Worker};

const QUEUES: &[u16] = &[QUEUE_SIZE, QUEUE_SIZE];

/// A virtio network card.
pub struct Net {
    mac: [u8; 6],
    mtu: u16,
    link_up: Arc<AtomicBool>,
    worker: Worker,
}

impl Net {
    /// Makes the card and its (idle) thread.
    pub fn new(config: NetConfig, setup: &ThreadSetup) -> io::Result<Self> {
        Self::with_link(&config.name, Tap::new(config.tap)?, config.mac, config.mtu, setup)
    }

    pub(super) fn with_link(
        name: &str,
        link: impl Link,
        mac: [u8; 6],
        mtu: u16,
        setup: &ThreadSetup,
    ) -> io::Result<Self> {
        let link_up = Arc::new(AtomicBool::new(true));
        let engine = NetEngine::new(link, mtu, link_up.clone());
        Ok(Self { mac, mtu, link_up, worker: Worker::spawn(name, ThreadKind::Net, engine, setup)? })
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        device_type::NET
    }
    fn queue_sizes(&self) -> &[u16] {
        QUEUES
    }
    fn features(&self) -> u64 {
        FEATURES
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&space(self.mac, self.mtu, self.link_up.load(Ordering::Acquire)), offset, data);
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
        sections.add(name, &SavedNet { mac: self.mac, mtu: self.mtu })
    }
    fn restore(&mut self, name: &str, sections: &mut Sections) -> Result<(), StateError> {
        SavedNet { mac: self.mac, mtu: self.mtu }.continue_from(&sections.take(name)?)
    }
    fn reset(&mut self) {
        self.worker.reset();
    }
}
