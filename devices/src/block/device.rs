//! The device.

use std::fs::File;
use std::io;

use super::config::{BlockConfig, BlockLimits, Geometry, QUEUE_SIZE, sectors_of};
use super::engine::BlockEngine;
use super::lock::lock;
use super::saved::SavedBlock;
use crate::saved::{Sections, StateError};
use crate::virtio::device::read_space;
use crate::virtio::{ActivateError, Activation, QueuePosition, VirtioDevice, device_type};
use crate::worker::{Remote, ThreadKind, ThreadSetup, Worker};

const QUEUES: &[u16] = &[QUEUE_SIZE];

/// A virtio disk.
pub struct Block {
    geometry: Geometry,
    /// The engine's, to ask for its length.
    file: File,
    worker: Worker<BlockLimits>,
}

/// Changes a disk that is in use.
#[derive(Clone)]
pub struct BlockRemote(Remote<BlockLimits>);

impl BlockRemote {
    /// Limits it anew; requests that wait go on under the new limits.
    pub fn limit(&self, limits: BlockLimits) -> io::Result<()> {
        let sent = self.0.order(limits);
        if sent { Ok(()) } else { Err(io::Error::other("the disk's thread ended; restart the instance")) }
    }
}

impl Block {
    /// Locks the image, and makes the disk and its (idle) thread.
    pub fn new(config: BlockConfig, setup: &ThreadSetup) -> io::Result<Self> {
        lock(&config.file, config.readonly)?;
        let geometry = Geometry::new(&config)?;
        let file = config.file.try_clone()?;
        let engine = BlockEngine::new(config.file, geometry.clone(), config.limits);
        let worker = Worker::spawn(&config.name, ThreadKind::Block, engine, setup)?;
        Ok(Self { geometry, file, worker })
    }

    /// For changing it while it is in use.
    pub fn remote(&self) -> BlockRemote {
        BlockRemote(self.worker.remote())
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        device_type::BLOCK
    }
    fn queue_sizes(&self) -> &[u16] {
        QUEUES
    }
    fn features(&self) -> u64 {
        self.geometry.features()
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.geometry.space(), offset, data);
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
        sections.add(name, &SavedBlock::of(&self.geometry))
    }
    fn restore(&mut self, name: &str, sections: &mut Sections) -> Result<(), StateError> {
        let known = SavedBlock::of(&self.geometry).continue_from(&sections.take(name)?)?;
        // What it has grown by is told as a change, by `look_again`.
        self.geometry.set_sectors(known);
        Ok(())
    }
    fn look_again(&mut self) -> io::Result<bool> {
        let (known, sectors) = (self.geometry.sectors(), sectors_of(&self.file)?);
        // Less would be a mistake of somebody else; the guest sees it as failing reads.
        let grown = sectors > known;
        if grown {
            self.geometry.set_sectors(sectors);
        }
        Ok(grown)
    }
    fn reset(&mut self) {
        self.worker.reset();
    }
}
