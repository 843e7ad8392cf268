//! Serving the queue.

use std::fs::File;

use tracing::debug;
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;

use super::config::Geometry;
use super::request::{Disk, Request};
use crate::Memory;
use crate::limit::Warnings;
use crate::virtio::{ActivateError, Activation, ActiveQueue, Chain, QueuePosition, RingError};
use crate::worker::{Engine, Events, Poller, event_fd};

/// Requests served before the loop looks at other events.
const BUDGET: usize = 64;
/// Requests served before the driver hears of them: few enough that it can go on filling the ring meanwhile.
const NOTIFY_EVERY: usize = 8;

struct Active {
    memory: Memory,
    queue: ActiveQueue,
}

/// The disk on its thread.
pub struct BlockEngine {
    disk: Disk,
    active: Option<Active>,
    chain: Chain,
}

impl BlockEngine {
    /// Idle.
    pub fn new(file: File, geometry: Geometry) -> Self {
        let disk = Disk { file, geometry, write_through: true, warnings: Warnings::default() };
        Self { disk, active: None, chain: Chain::default() }
    }
}

impl Engine for BlockEngine {
    fn activate(&mut self, mut activation: Activation, poller: &Poller) -> Result<(), ActivateError> {
        let queue = activation.take_queue(0)?;
        poller.add(event_fd(queue.kick()), 0, Events::IN)?;
        // A driver that cannot flush expects its writes to last.
        self.disk.write_through = activation.features & 1 << VIRTIO_BLK_F_FLUSH == 0;
        self.active = Some(Active { memory: activation.memory, queue });
        Ok(())
    }

    fn event(&mut self, _token: u64, _events: Events, poller: &Poller) -> Result<(), RingError> {
        let Some(Active { memory, queue }) = &mut self.active else { return Ok(()) };
        queue.clear_kick();
        queue.disable_kicks(memory)?;
        for served in 1..=BUDGET {
            if !queue.pop(memory, &mut self.chain)? {
                if queue.enable_kicks(memory)? {
                    queue.disable_kicks(memory)?;
                    continue;
                }
                return queue.notify(memory);
            }
            if poller.interrupted() {
                // The device is reset or held; what is not begun need not be, and is begun when it goes on.
                queue.undo_pop();
                queue.kick_again();
                return queue.notify(memory);
            }
            let written = serve(&self.disk, memory, &self.chain)?;
            queue.push(memory, self.chain.head, written)?;
            if served % NOTIFY_EVERY == 0 {
                queue.notify(memory)?;
            }
        }
        queue.kick_again();
        queue.notify(memory)
    }

    fn quiesce(&mut self) -> Result<Vec<QueuePosition>, RingError> {
        // Requests are carried out one by one: between two events none is under way.
        Ok(self.active.iter().map(|active| active.queue.position(0)).collect())
    }

    fn deactivate(&mut self) {
        self.active = None;
    }
}

/// Carries one request out and writes its status; returns the bytes written to guest memory.
fn serve(disk: &Disk, memory: &Memory, chain: &Chain) -> Result<u32, RingError> {
    let Some(request) = Request::parse(memory, chain)? else {
        debug!(head = chain.head, "request of the guest without header or status");
        return Ok(0);
    };
    let outcome = disk.carry_out(memory, chain, &request)?;
    let status_at = chain.writable.len() - 1;
    chain.writable.write(memory, status_at, &[outcome.status])?;
    // The length counts from the first writable byte, and the status is the last one.
    let len = if outcome.written == status_at { status_at + 1 } else { outcome.written };
    Ok(len as u32)
}
