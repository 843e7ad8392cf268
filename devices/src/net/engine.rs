//! The card on its thread: which events lead to which direction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tracing::warn;

use super::config::{NetLimits, largest_received};
use super::receive::Receiver;
use super::tap::Link;
use super::transmit::Transmitter;
use crate::Memory;
use crate::rate::Pace;
use crate::virtio::{ActivateError, Activation, Interrupt, QueuePosition, RingError};
use crate::worker::{Engine, Events, Poller, event_fd};

const RECEIVE_KICK: u64 = 0;
const TRANSMIT_KICK: u64 = 1;
const TAP: u64 = 2;

struct Active {
    memory: Memory,
    interrupt: Interrupt,
    receiver: Receiver,
    transmitter: Transmitter,
    /// What the tap is polled for.
    interest: Events,
}

/// The card.
pub struct NetEngine<L> {
    link: L,
    mtu: u16,
    link_up: Arc<AtomicBool>,
    limits: NetLimits,
    active: Option<Active>,
}

impl<L: Link> NetEngine<L> {
    /// Idle.
    pub fn new(link: L, mtu: u16, link_up: Arc<AtomicBool>, limits: NetLimits) -> Self {
        Self { link, mtu, link_up, limits, active: None }
    }

    /// Polls the tap for what can be used: frames while the guest has buffers, room while it has frames to send.
    fn update_interest(&mut self, poller: &Poller) -> Result<(), RingError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let mut wanted = Events::empty();
        wanted.set(Events::IN, !active.receiver.starved() && active.receiver.paused().is_none());
        wanted.set(Events::OUT, active.transmitter.blocked());
        if wanted != active.interest && self.link_up.load(Ordering::Acquire) {
            poller.modify(&self.link, TAP, wanted)?;
            active.interest = wanted;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<(), RingError> {
        self.active.as_mut().map_or(Ok(()), |active| active.receiver.run(&active.memory, &self.link))
    }

    fn transmit(&mut self) -> Result<(), RingError> {
        self.active.as_mut().map_or(Ok(()), |active| active.transmitter.run(&active.memory, &self.link))
    }

    /// The tap is gone: somebody removed the host's interface. The guest sees an unplugged cable.
    fn unplugged(&mut self, poller: &Poller) -> Result<(), RingError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        warn!("the host's network interface of the guest was removed; restart the instance to get a new one");
        poller.remove(&self.link)?;
        self.link_up.store(false, Ordering::Release);
        active.interrupt.config_changed();
        Ok(())
    }
}

impl<L: Link> Engine for NetEngine<L> {
    type Order = NetLimits;

    fn activate(&mut self, mut activation: Activation, poller: &Poller) -> Result<(), ActivateError> {
        let receive = activation.take_queue(0)?;
        let transmit = activation.take_queue(1)?;
        self.link.set_features(activation.features)?;
        poller.add(event_fd(receive.kick()), RECEIVE_KICK, Events::IN)?;
        poller.add(event_fd(transmit.kick()), TRANSMIT_KICK, Events::IN)?;
        let interest = Events::IN;
        poller.add(&self.link, TAP, interest)?;
        self.link_up.store(true, Ordering::Release);
        let largest = largest_received(activation.features, self.mtu);
        let (ingress, egress) = (Pace::new(self.limits.ingress), Pace::new(self.limits.egress));
        self.active = Some(Active {
            memory: activation.memory,
            interrupt: activation.interrupt,
            receiver: Receiver::new(receive, activation.features, largest, ingress),
            transmitter: Transmitter::new(transmit, egress),
            interest,
        });
        Ok(())
    }

    fn event(&mut self, token: u64, events: Events, poller: &Poller) -> Result<(), RingError> {
        let Some(Active { receiver, transmitter, .. }) = &self.active else { return Ok(()) };
        match token {
            RECEIVE_KICK => {
                receiver.clear_kick();
                self.receive()?;
            }
            TRANSMIT_KICK => {
                transmitter.clear_kick();
                self.transmit()?;
            }
            _ if events.intersects(Events::ERR | Events::HUP) => return self.unplugged(poller),
            _ => {
                if events.contains(Events::IN) {
                    self.receive()?;
                }
                if events.contains(Events::OUT) {
                    self.transmit()?;
                }
            }
        }
        self.update_interest(poller)
    }

    fn deadline(&self) -> Option<Instant> {
        let active = self.active.as_ref()?;
        [active.receiver.paused(), active.transmitter.paused()].into_iter().flatten().min()
    }

    fn expired(&mut self, poller: &Poller) -> Result<(), RingError> {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let Some(active) = &self.active else { return Ok(()) };
        let (receive, transmit) = (due(active.receiver.paused()), due(active.transmitter.paused()));
        if receive {
            self.receive()?;
        }
        if transmit {
            self.transmit()?;
        }
        self.update_interest(poller)
    }

    fn order(&mut self, limits: NetLimits, poller: &Poller) -> Result<(), RingError> {
        self.limits = limits;
        if let Some(active) = &mut self.active {
            active.receiver.set_pace(Pace::new(limits.ingress));
            active.transmitter.set_pace(Pace::new(limits.egress));
        }
        self.receive()?;
        self.transmit()?;
        self.update_interest(poller)
    }

    fn quiesce(&mut self) -> Result<Vec<QueuePosition>, RingError> {
        let positions = |active: &Active| [active.receiver.position(), active.transmitter.position()];
        Ok(self.active.iter().flat_map(positions).collect())
    }

    fn deactivate(&mut self) {
        self.active = None;
    }
}
