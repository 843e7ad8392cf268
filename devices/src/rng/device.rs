//! The device and its engine.

use std::convert::Infallible;
use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::Memory;
use crate::saved::{Sections, StateError};
use crate::virtio::{
    ActivateError, Activation, ActiveQueue, Chain, QueuePosition, RingError, VirtioDevice, device_type,
};
use crate::worker::{Engine, Events, Poller, ThreadKind, ThreadSetup, Worker, event_fd};

const QUEUES: &[u16] = &[64];
/// Most bytes given for one request: a guest that asks for megabytes gets the start and asks again, so that it cannot
/// keep the thread from hearing of a reset.
const MAX_REQUEST: usize = 64 << 10;
/// Requests served before the loop looks at other events.
const BUDGET: usize = 64;

/// The entropy source.
pub struct Rng {
    worker: Worker,
}

impl Rng {
    /// Makes the device and its (idle) thread.
    pub fn new(setup: &ThreadSetup) -> io::Result<Self> {
        Ok(Self { worker: Worker::spawn("rng", ThreadKind::Rng, RngEngine::default(), setup)? })
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        device_type::RNG
    }
    fn queue_sizes(&self) -> &[u16] {
        QUEUES
    }
    fn features(&self) -> u64 {
        0
    }
    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}
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
    // The driver is told nothing, so there is nothing to keep.
    fn save(&self, _name: &str, _sections: &mut Sections) -> Result<(), StateError> {
        Ok(())
    }
    fn restore(&mut self, _name: &str, _sections: &mut Sections) -> Result<(), StateError> {
        Ok(())
    }
    fn reset(&mut self) {
        self.worker.reset();
    }
}

#[derive(Default)]
struct RngEngine {
    active: Option<(Memory, ActiveQueue)>,
    chain: Chain,
}

impl Engine for RngEngine {
    type Order = Infallible;

    fn activate(&mut self, mut activation: Activation, poller: &Poller) -> Result<(), ActivateError> {
        let queue = activation.take_queue(0)?;
        poller.add(event_fd(queue.kick()), 0, Events::IN)?;
        self.active = Some((activation.memory, queue));
        Ok(())
    }

    fn event(&mut self, _token: u64, _events: Events, _poller: &Poller) -> Result<(), RingError> {
        let Some((memory, queue)) = &mut self.active else { return Ok(()) };
        queue.clear_kick();
        for _ in 0..BUDGET {
            if !queue.pop(memory, &mut self.chain)? {
                if queue.enable_kicks(memory)? {
                    continue;
                }
                return queue.notify(memory);
            }
            let len = fill(memory, &self.chain)?;
            queue.push(memory, self.chain.head, len)?;
        }
        queue.kick_again();
        queue.notify(memory)
    }

    fn quiesce(&mut self) -> Result<Vec<QueuePosition>, RingError> {
        Ok(self.active.iter().map(|(_, queue)| queue.position(0)).collect())
    }

    fn deactivate(&mut self) {
        self.active = None;
    }
}

/// Fills the writable buffers; returns how many bytes they got.
fn fill(memory: &Memory, chain: &Chain) -> Result<u32, RingError> {
    let wanted = chain.writable.len().min(MAX_REQUEST);
    let mut done = 0;
    let mut block = [0; 4096];
    while done < wanted {
        let len = block.len().min(wanted - done);
        let got = match getrandom(&mut block[..len], GetRandomFlags::empty()) {
            Ok(got) => got,
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        done += chain.writable.write(memory, done, &block[..got])?;
    }
    Ok(done as u32)
}
