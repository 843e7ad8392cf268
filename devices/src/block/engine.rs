//! Serving the queue.

use std::fs::File;
use std::time::Instant;

use tracing::debug;
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;

use super::config::{BlockLimits, Geometry};
use super::gate::Gates;
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
    /// Requests may have been left in the ring because too many wait.
    left: bool,
}

/// The disk on its thread.
pub struct BlockEngine {
    disk: Disk,
    active: Option<Active>,
    chain: Chain,
    gates: Gates,
}

impl BlockEngine {
    /// Idle.
    pub fn new(file: File, geometry: Geometry, limits: BlockLimits) -> Self {
        let disk = Disk { file, geometry, write_through: true, warnings: Warnings::default() };
        Self { disk, active: None, chain: Chain::default(), gates: Gates::new(limits) }
    }

    /// Carries out what waited and may go on.
    fn release(&mut self, poller: &Poller) -> Result<(), RingError> {
        let Some(Active { memory, queue, left }) = &mut self.active else { return Ok(()) };
        let now = Instant::now();
        // Whoever interrupts comes first; the deadline stays over meanwhile.
        while !poller.interrupted()
            && let Some((request, chain)) = self.gates.next(now)
        {
            serve(&self.disk, memory, queue, &request, &chain)?;
        }
        if std::mem::take(left) {
            queue.kick_again();
        }
        queue.notify(memory)
    }
}

impl Engine for BlockEngine {
    type Order = BlockLimits;

    fn activate(&mut self, mut activation: Activation, poller: &Poller) -> Result<(), ActivateError> {
        let queue = activation.take_queue(0)?;
        poller.add(event_fd(queue.kick()), 0, Events::IN)?;
        // A driver that cannot flush expects its writes to last.
        self.disk.write_through = activation.features & 1 << VIRTIO_BLK_F_FLUSH == 0;
        self.active = Some(Active { memory: activation.memory, queue, left: false });
        Ok(())
    }

    fn event(&mut self, _token: u64, _events: Events, poller: &Poller) -> Result<(), RingError> {
        let Some(Active { memory, queue, left }) = &mut self.active else { return Ok(()) };
        queue.clear_kick();
        queue.disable_kicks(memory)?;
        for served in 1..=BUDGET {
            if self.gates.full() {
                *left = true;
                return queue.notify(memory);
            }
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
            let Some(request) = Request::parse(memory, &self.chain)? else {
                debug!(head = self.chain.head, "request of the guest without header or status");
                queue.push(memory, self.chain.head, 0)?;
                continue;
            };
            match request.cost(&self.chain) {
                Some(cost) if !self.gates.admit(cost, Instant::now) => {
                    self.gates.keep(request, std::mem::take(&mut self.chain), cost);
                }
                _ => serve(&self.disk, memory, queue, &request, &self.chain)?,
            }
            if served % NOTIFY_EVERY == 0 {
                queue.notify(memory)?;
            }
        }
        queue.kick_again();
        queue.notify(memory)
    }

    fn deadline(&self) -> Option<Instant> {
        self.gates.deadline()
    }

    fn expired(&mut self, poller: &Poller) -> Result<(), RingError> {
        self.release(poller)
    }

    fn order(&mut self, limits: BlockLimits, poller: &Poller) -> Result<(), RingError> {
        self.gates.limit(limits, Instant::now());
        self.release(poller)
    }

    fn quiesce(&mut self) -> Result<Vec<QueuePosition>, RingError> {
        // Requests are carried out one by one; those that wait were taken from the ring and are not kept otherwise.
        // The driver hears of them when the machine goes on.
        if let Some(Active { memory, queue, .. }) = &mut self.active {
            while let Some((request, chain)) = self.gates.drain() {
                serve(&self.disk, memory, queue, &request, &chain)?;
            }
            queue.notify(memory)?;
        }
        Ok(self.active.iter().map(|active| active.queue.position(0)).collect())
    }

    fn deactivate(&mut self) {
        self.gates.clear();
        self.active = None;
    }
}

/// Carries one request out, writes its status and gives it back.
fn serve(
    disk: &Disk,
    memory: &Memory,
    queue: &mut ActiveQueue,
    request: &Request,
    chain: &Chain,
) -> Result<(), RingError> {
    let outcome = disk.carry_out(memory, chain, request)?;
    let status_at = chain.writable.len() - 1;
    chain.writable.write(memory, status_at, &[outcome.status])?;
    // The length counts from the first writable byte, and the status is the last one.
    let len = if outcome.written == status_at { status_at + 1 } else { outcome.written };
    queue.push(memory, chain.head, len as u32)
}
