//! The thread on which a device runs its queues.
//!
//! A device's thread is made with the device and lives as long; between reset and activation it waits. So no thread
//! is made on a vCPU's path (whose seccomp filter would have to allow it and would be inherited), and the device's
//! descriptors never move between threads.

mod poller;
mod syscalls;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tracing::{error, warn};
use vmm_sys_util::eventfd::EventFd;

pub use poller::{Events, Poller};

use crate::limit::Warnings;
use crate::virtio::{ActivateError, Activation, Interrupt, QueuePosition, RingError};

/// What a thread is for; the machine confines each kind with its own filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThreadKind {
    /// A disk.
    Block,
    /// A network card.
    Net,
    /// The socket device.
    Vsock,
    /// The entropy source.
    Rng,
}

/// Called first thing on each new device thread, before it touches anything of the guest. An error stops the device
/// from being made.
pub type ThreadSetup = Arc<dyn Fn(ThreadKind) -> io::Result<()> + Send + Sync>;

/// A set-up that does nothing.
pub fn no_setup() -> ThreadSetup {
    Arc::new(|_| Ok(()))
}

/// What a device does on its thread. Calls come from that thread only:
///
/// ```text
///   idle ──activate──▶ active ──(event | expired | quiesce)*──▶ active ──deactivate──▶ idle
/// ```
///
/// Nothing may wait; what takes long is bounded by a budget, so that a reset is heard of.
pub trait Engine: Send + 'static {
    /// What the machine's owner may tell the engine while it runs; [`Infallible`] if there is nothing.
    type Order: Send + 'static;
    /// Does what the owner wants, whether active or idle. An error is treated as one of [`event`](Self::event).
    fn order(&mut self, order: Self::Order, poller: &Poller) -> Result<(), RingError> {
        let _ = (order, poller);
        Ok(())
    }
    /// The driver is ready: keep `activation`, and add what to wait for to `poller`, which is new. Tokens are the
    /// engine's own, below [`TOKEN_LIMIT`].
    fn activate(&mut self, activation: Activation, poller: &Poller) -> Result<(), ActivateError>;
    /// `events` of `token` happened. An error makes the device ask for a reset; `deactivate` follows.
    fn event(&mut self, token: u64, events: Events, poller: &Poller) -> Result<(), RingError>;
    /// When to call [`expired`](Self::expired), if nothing happens before.
    fn deadline(&self) -> Option<Instant> {
        None
    }
    /// The deadline is over.
    fn expired(&mut self, poller: &Poller) -> Result<(), RingError> {
        let _ = poller;
        Ok(())
    }
    /// The machine is about to be saved: bring what is under way to its end, and tell where each queue stands, without
    /// the chains that were taken and not given back. Nothing else is called until the machine goes on, with all
    /// that the engine has. An idle engine has no queues.
    fn quiesce(&mut self) -> Result<Vec<QueuePosition>, RingError>;
    /// Let go of queues, guest memory and connections; the poller is gone already.
    fn deactivate(&mut self);
}

/// Tokens of engines are below this.
pub const TOKEN_LIMIT: u64 = u64::MAX;
const WAKE: u64 = TOKEN_LIMIT;
/// Device code is not recursive; the default of 8 MiB would only be address space, but much of it.
const STACK_SIZE: usize = 256 << 10;

enum Command<O> {
    Activate(Box<Activation>),
    Reset(SyncSender<()>),
    Hold(SyncSender<Vec<QueuePosition>>),
    Resume,
    Order(O),
    End,
}

/// Sends to a device's thread. Clones reach the same thread.
pub struct Remote<O> {
    commands: Sender<Command<O>>,
    wake: Arc<EventFd>,
    interrupted: Arc<AtomicBool>,
}

impl<O> Clone for Remote<O> {
    fn clone(&self) -> Self {
        let (commands, wake) = (self.commands.clone(), self.wake.clone());
        Self { commands, wake, interrupted: self.interrupted.clone() }
    }
}

impl<O> Remote<O> {
    fn send(&self, command: Command<O>) -> bool {
        self.interrupted.store(true, Ordering::Release);
        self.commands.send(command).is_ok() && self.wake.write(1).is_ok()
    }

    /// Gives the engine `order`; false if the thread is gone.
    pub fn order(&self, order: O) -> bool {
        self.send(Command::Order(order))
    }
}

/// Handle of a device's thread. Dropping it ends the thread and waits for that.
pub struct Worker<O = Infallible> {
    remote: Remote<O>,
    thread: Option<JoinHandle<()>>,
}

impl<O: Send + 'static> Worker<O> {
    /// Starts the thread and waits until `setup` is through.
    pub fn spawn(
        name: &str,
        kind: ThreadKind,
        engine: impl Engine<Order = O>,
        setup: &ThreadSetup,
    ) -> io::Result<Self> {
        let (commands, receiver) = channel();
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let interrupted = Arc::new(AtomicBool::new(false));
        let mut thread = Thread::new(name, engine, receiver, wake.clone(), interrupted.clone())?;
        let setup = setup.clone();
        let (ready, result) = sync_channel(1);
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK_SIZE).spawn(move || {
            let outcome = setup(kind);
            let go = outcome.is_ok();
            if ready.send(outcome).is_ok() && go {
                thread.run();
            }
        })?;
        result.recv().unwrap_or_else(|_| Err(io::Error::other("the device's thread died in its set-up")))?;
        Ok(Self { remote: Remote { commands, wake, interrupted }, thread: Some(thread) })
    }

    /// For giving orders from elsewhere.
    pub fn remote(&self) -> Remote<O> {
        self.remote.clone()
    }

    /// Hands the queues over. Failures of the engine show as NEEDS_RESET.
    pub fn activate(&self, activation: Activation) -> Result<(), ActivateError> {
        let sent = self.remote.send(Command::Activate(Box::new(activation)));
        if sent { Ok(()) } else { Err(ActivateError::WorkerGone) }
    }

    /// Takes the queues back; returns when the thread let go of them.
    pub fn reset(&self) {
        let (done, wait) = sync_channel(1);
        if self.remote.send(Command::Reset(done)) {
            // An error means that the thread is gone, and its queues with it.
            let _ = wait.recv();
        }
    }

    /// Holds the thread; returns when it waits for nothing but [`resume`](Self::resume), with the positions of its
    /// queues. None of an active device means that it is broken. A held thread still takes all other commands.
    pub fn hold(&self) -> Vec<QueuePosition> {
        let (answer, positions) = sync_channel(1);
        if self.remote.send(Command::Hold(answer)) { positions.recv().unwrap_or_default() } else { Vec::new() }
    }

    /// Lets a held thread go on.
    pub fn resume(&self) {
        // Without a thread there is nothing that could go on.
        let _ = self.remote.send(Command::Resume);
    }
}

impl<O> Drop for Worker<O> {
    fn drop(&mut self) {
        self.remote.send(Command::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("a device's thread panicked");
        }
    }
}

/// What a wake-up brought.
enum Heard {
    Nothing,
    Commands,
    End,
}

struct Thread<E: Engine> {
    name: String,
    engine: E,
    commands: Receiver<Command<E::Order>>,
    wake: Arc<EventFd>,
    interrupted: Arc<AtomicBool>,
    poller: Poller,
    warnings: Warnings,
    /// Some while active.
    interrupt: Option<Interrupt>,
}

impl<E: Engine> Thread<E> {
    fn new(
        name: &str,
        engine: E,
        commands: Receiver<Command<E::Order>>,
        wake: Arc<EventFd>,
        interrupted: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let poller = Self::poller(&wake, &interrupted)?;
        let warnings = Warnings::default();
        Ok(Self { name: name.to_owned(), engine, commands, wake, interrupted, poller, warnings, interrupt: None })
    }

    fn poller(wake: &EventFd, interrupted: &Arc<AtomicBool>) -> io::Result<Poller> {
        let poller = Poller::new(interrupted.clone())?;
        poller.add(event_fd(wake), WAKE, Events::IN)?;
        Ok(poller)
    }

    fn run(&mut self) {
        let mut happened = Vec::new();
        loop {
            let deadline = self.interrupt.as_ref().and_then(|_| self.engine.deadline());
            if let Err(error) = self.poller.wait(deadline, &mut happened) {
                error!(device = self.name, %error, "the device's thread cannot wait for events; the device is dead");
                self.stop();
                return;
            }
            let woken = happened.iter().any(|(token, _)| *token == WAKE);
            // Commands come first: after one of them the other events are stale.
            let heard = if woken { self.obey() } else { Heard::Nothing };
            match heard {
                Heard::Nothing => {
                    if let Err(error) = self.work(&happened, deadline) {
                        self.broken(&error.to_string());
                    }
                }
                Heard::Commands => {}
                Heard::End => {
                    self.stop();
                    return;
                }
            }
        }
    }

    fn work(&mut self, happened: &[(u64, Events)], deadline: Option<Instant>) -> Result<(), RingError> {
        for (token, events) in happened.iter().filter(|(token, _)| *token != WAKE) {
            self.engine.event(*token, *events, &self.poller)?;
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.engine.expired(&self.poller)?;
        }
        Ok(())
    }

    fn obey(&mut self) -> Heard {
        let _ = self.wake.read();
        // Before the commands are taken: one that is sent meanwhile sets it again.
        self.interrupted.store(false, Ordering::Release);
        let mut heard = Heard::Nothing;
        let mut held = false;
        loop {
            let waited = || self.commands.recv().map_err(|_| TryRecvError::Disconnected);
            match if held { waited() } else { self.commands.try_recv() } {
                Ok(Command::Activate(activation)) => self.activate(*activation),
                Ok(Command::Reset(done)) => {
                    self.stop();
                    // The vCPU that waited may be gone with its machine.
                    let _ = done.send(());
                }
                Ok(Command::Hold(answer)) => {
                    held = true;
                    // As above.
                    let _ = answer.send(self.quiesce());
                }
                Ok(Command::Resume) => held = false,
                Ok(Command::Order(order)) => {
                    if let Err(error) = self.engine.order(order, &self.poller) {
                        self.broken(&error.to_string());
                    }
                }
                Err(TryRecvError::Empty) => return heard,
                Ok(Command::End) | Err(TryRecvError::Disconnected) => return Heard::End,
            }
            heard = Heard::Commands;
        }
    }

    fn activate(&mut self, activation: Activation) {
        self.stop();
        self.interrupt = Some(activation.interrupt.clone());
        if let Err(error) = self.engine.activate(activation, &self.poller) {
            self.broken(&error.to_string());
        }
    }

    fn quiesce(&mut self) -> Vec<QueuePosition> {
        let positions = self.engine.quiesce();
        positions.unwrap_or_else(|error| {
            self.broken(&error.to_string());
            Vec::new()
        })
    }

    fn broken(&mut self, error: &str) {
        if self.warnings.allowed() {
            warn!(device = self.name, error, "device stopped; it asks the driver for a reset");
        }
        if let Some(interrupt) = self.interrupt.clone() {
            self.stop();
            interrupt.needs_reset();
        }
    }

    fn stop(&mut self) {
        if self.interrupt.take().is_none() {
            return;
        }
        match Self::poller(&self.wake, &self.interrupted) {
            Ok(poller) => self.poller = poller,
            // Events of the former activation then reach an idle engine, which ignores them.
            Err(error) => warn!(device = self.name, %error, "no new poller"),
        }
        self.engine.deactivate();
    }
}

/// The descriptor of an eventfd, borrowed.
pub fn event_fd(fd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the eventfd stays open as long as `fd` is borrowed.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}
