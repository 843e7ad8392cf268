//! The device on its thread: queues and events.

use std::convert::Infallible;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::mux::{LISTENER, Mux};
use super::packet::HEADER;
use crate::Memory;
use crate::virtio::{ActivateError, Activation, ActiveQueue, Chain, QueuePosition, RingError, Start};
use crate::worker::{Engine, Events, Poller, event_fd};

const TO_GUEST: u64 = 0;
const FROM_GUEST: u64 = 1;
const EVENTS: u64 = 2;
/// The event "all connections are gone, and the context id may have changed".
const TRANSPORT_RESET: u32 = 0;
/// Packets dealt with before the loop looks at other events.
const BUDGET: usize = 256;

struct Active {
    memory: Memory,
    to_guest: ActiveQueue,
    from_guest: ActiveQueue,
    events: ActiveQueue,
    /// The driver has not been told yet that its connections are gone.
    owes_reset: bool,
    mux: Mux,
    chain: Chain,
    /// Reading the guest's packets stopped until it takes the answers to earlier ones.
    held: bool,
}

/// The socket device.
pub struct VsockEngine {
    cid: u64,
    listener: UnixListener,
    path: PathBuf,
    line_timeout: Duration,
    active: Option<Active>,
}

impl VsockEngine {
    /// Idle. A host program may take `line_timeout` over its line.
    pub fn new(cid: u64, listener: UnixListener, path: PathBuf, line_timeout: Duration) -> Self {
        Self { cid, listener, path, line_timeout, active: None }
    }
}

impl Active {
    /// Takes the guest's packets.
    fn take(&mut self, poller: &Poller) -> Result<(), RingError> {
        self.held = false;
        self.from_guest.disable_kicks(&self.memory)?;
        for _ in 0..BUDGET {
            if !self.mux.accepts_packets() {
                self.held = true;
                return self.from_guest.notify(&self.memory);
            }
            if !self.from_guest.pop(&self.memory, &mut self.chain)? {
                if self.from_guest.enable_kicks(&self.memory)? {
                    self.from_guest.disable_kicks(&self.memory)?;
                    continue;
                }
                return self.from_guest.notify(&self.memory);
            }
            self.mux.packet(&self.memory, &self.chain, poller)?;
            self.from_guest.push(&self.memory, self.chain.head, 0)?;
        }
        self.from_guest.kick_again();
        self.from_guest.notify(&self.memory)
    }

    /// Gives the guest what there is for it.
    fn give(&mut self) -> Result<(), RingError> {
        for _ in 0..BUDGET {
            if !self.mux.has_packets() {
                return self.to_guest.notify(&self.memory);
            }
            if !self.to_guest.pop(&self.memory, &mut self.chain)? {
                if self.to_guest.enable_kicks(&self.memory)? {
                    self.to_guest.disable_kicks(&self.memory)?;
                    continue;
                }
                return self.to_guest.notify(&self.memory);
            }
            if self.chain.writable.len() <= HEADER {
                // No room for data: of no use.
                self.to_guest.push(&self.memory, self.chain.head, 0)?;
                continue;
            }
            match self.mux.next_packet(&self.memory, &self.chain)? {
                Some(len) => self.to_guest.push(&self.memory, self.chain.head, len as u32)?,
                None => self.to_guest.undo_pop(),
            }
        }
        self.to_guest.kick_again();
        self.to_guest.notify(&self.memory)
    }
}

impl Active {
    /// Tells the driver that its connections are gone, as soon as it has a buffer for that.
    fn tell_reset(&mut self) -> Result<(), RingError> {
        while self.owes_reset {
            if !self.events.pop(&self.memory, &mut self.chain)? {
                if self.events.enable_kicks(&self.memory)? {
                    continue;
                }
                break;
            }
            let len = self.chain.writable.write(&self.memory, 0, &TRANSPORT_RESET.to_le_bytes())?;
            self.events.push(&self.memory, self.chain.head, len as u32)?;
            self.owes_reset = false;
        }
        self.events.notify(&self.memory)
    }
}

impl Engine for VsockEngine {
    type Order = Infallible;

    fn activate(&mut self, mut activation: Activation, poller: &Poller) -> Result<(), ActivateError> {
        let to_guest = activation.take_queue(0)?;
        let from_guest = activation.take_queue(1)?;
        let events = activation.take_queue(2)?;
        poller.add(event_fd(to_guest.kick()), TO_GUEST, Events::IN)?;
        poller.add(event_fd(from_guest.kick()), FROM_GUEST, Events::IN)?;
        poller.add(event_fd(events.kick()), EVENTS, Events::IN)?;
        let mut mux = Mux::new(self.cid, self.path.clone(), self.line_timeout);
        mux.update_listening(&self.listener, poller)?;
        self.active = Some(Active {
            memory: activation.memory,
            to_guest,
            from_guest,
            events,
            owes_reset: activation.start == Start::Restored,
            mux,
            chain: Chain::default(),
            held: false,
        });
        Ok(())
    }

    fn event(&mut self, token: u64, events: Events, poller: &Poller) -> Result<(), RingError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        match token {
            TO_GUEST => active.to_guest.clear_kick(),
            FROM_GUEST => {
                active.from_guest.clear_kick();
                active.take(poller)?;
            }
            EVENTS => {
                active.events.clear_kick();
                active.tell_reset()?;
            }
            LISTENER => active.mux.accept(&self.listener, poller),
            id => active.mux.stream_event(id, events),
        }
        active.give()?;
        if active.held && active.mux.accepts_packets() {
            active.take(poller)?;
            active.give()?;
        }
        Ok(active.mux.update_listening(&self.listener, poller)?)
    }

    fn deadline(&self) -> Option<Instant> {
        self.active.as_ref()?.mux.deadline()
    }

    fn expired(&mut self, poller: &Poller) -> Result<(), RingError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        active.mux.expire();
        active.give()?;
        Ok(active.mux.update_listening(&self.listener, poller)?)
    }

    fn quiesce(&mut self) -> Result<Vec<QueuePosition>, RingError> {
        let positions =
            |active: &Active| [&active.to_guest, &active.from_guest, &active.events].map(|queue| queue.position(0));
        Ok(self.active.iter().flat_map(positions).collect())
    }

    fn deactivate(&mut self) {
        // Drops all connections; their host programs see the end of the stream.
        self.active = None;
    }
}
