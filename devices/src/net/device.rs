//! The device.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::config::{FEATURES, NetConfig, NetLimits, QUEUE_SIZE, space};
use super::engine::NetEngine;
use super::saved::SavedNet;
use super::tap::{Link, Tap};
use crate::saved::{Sections, StateError};
use crate::virtio::device::read_space;
use crate::virtio::{ActivateError, Activation, QueuePosition, VirtioDevice, device_type};
use crate::worker::{Remote, ThreadKind, ThreadSetup, Worker};

const QUEUES: &[u16] = &[QUEUE_SIZE, QUEUE_SIZE];

/// A virtio network card.
pub struct Net {
    mac: [u8; 6],
    mtu: u16,
    link_up: Arc<AtomicBool>,
    worker: Worker<NetLimits>,
}

/// Changes a card that is in use.
#[derive(Clone)]
pub struct NetRemote(Remote<NetLimits>);

impl NetRemote {
    /// Limits it anew; frames that wait go on under the new limits.
    pub fn limit(&self, limits: NetLimits) -> io::Result<()> {
        let sent = self.0.order(limits);
        if sent { Ok(()) } else { Err(io::Error::other("the network card's thread ended; restart the instance")) }
    }
}

impl Net {
    /// Makes the card and its (idle) thread.
    pub fn new(config: NetConfig, setup: &ThreadSetup) -> io::Result<Self> {
        let NetConfig { name, tap, mac, mtu, limits } = config;
        Self::with_link(&name, Tap::new(tap)?, mac, mtu, limits, setup)
    }

    pub(super) fn with_link(
        name: &str,
        link: impl Link,
        mac: [u8; 6],
        mtu: u16,
        limits: NetLimits,
        setup: &ThreadSetup,
    ) -> io::Result<Self> {
        let link_up = Arc::new(AtomicBool::new(true));
        let engine = NetEngine::new(link, mtu, link_up.clone(), limits);
        Ok(Self { mac, mtu, link_up, worker: Worker::spawn(name, ThreadKind::Net, engine, setup)? })
    }

    /// For changing it while it is in use.
    pub fn remote(&self) -> NetRemote {
        NetRemote(self.worker.remote())
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
