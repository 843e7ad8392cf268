//! Serving a running machine: one loop, one owner.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use berth_supervisor::console::{AttachError, Console, Input};
use berth_supervisor::protocol::{Event, Exit, ExitReason, RefusalKind, Reply, Request, RunState, Status};
use berth_supervisor::transport::Listener;
use rustix::event::{PollFd, PollFlags};

use super::agent::{AgentNews, AgentPort};
use super::connections::{Connections, Id, Said};
use super::panics::PanicWatch;
use super::saving::Saving;
use super::sys::Termination;
use super::times::Times;
use crate::machine::{Guest, GuestSignal};

/// The owner of a running machine.
pub struct Supervisor<G> {
    guest: G,
    console: Console,
    /// What was typed and did not fit the serial port yet.
    typed: VecDeque<u8>,
    panics: PanicWatch,
    listener: Listener,
    connections: Connections,
    agent: Option<AgentPort>,
    termination: Termination,
    times: Times,
    /// Of this process, as the host sees it.
    pid: u32,
    state: RunState,
    saving: Option<Saving>,
}

/// What can wake the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Termination,
    Signals,
    Output,
    InputDrained,
    ConsoleClient,
    Agent,
    Listener,
    Connection(Id),
}

impl<G: Guest> Supervisor<G> {
    /// Takes over a machine that runs.
    pub fn new(
        guest: G,
        console: Console,
        listener: Listener,
        agent: Option<AgentPort>,
        termination: Termination,
        times: Times,
        pid: u32,
    ) -> Self {
        Self {
            guest,
            console,
            typed: VecDeque::new(),
            panics: PanicWatch::default(),
            listener,
            connections: Connections::default(),
            agent,
            termination,
            times,
            pid,
            state: RunState::Running,
            saving: None,
        }
    }

    /// Serves until the machine is at its end; its CPUs do not run any more then.
    pub fn serve(&mut self) -> Exit {
        let exit = loop {
            match self.wait() {
                Err(error) => {
                    let message = format!("berth-vmm cannot wait for events: {error}; the host is out of a resource");
                    break Exit { reason: ExitReason::Error, message };
                }
                Ok(ready) => {
                    if let Some(exit) = ready.into_iter().find_map(|(source, flags)| self.handle(source, flags)) {
                        break exit;
                    }
                    self.write_on();
                }
            }
        };
        self.guest.stop();
        self.print();
        exit
    }

    /// Lets go of everything but the connections, which are still to hear of the end.
    pub fn end(self) -> Connections {
        self.connections
    }

    /// Waits for something to happen.
    fn wait(&self) -> std::io::Result<Vec<(Source, PollFlags)>> {
        let mut sources = Vec::new();
        let mut watched = Vec::new();
        let mut watch = |source, fd, flags| {
            sources.push(source);
            watched.push(PollFd::from_borrowed_fd(fd, flags));
        };
        watch(Source::Termination, self.termination.as_fd(), PollFlags::IN);
        for fd in self.guest.signals().watched() {
            watch(Source::Signals, fd, PollFlags::IN);
        }
        watch(Source::Output, self.guest.output().as_fd(), PollFlags::IN);
        watch(Source::InputDrained, crate::machine::borrow(self.guest.input_drained()), PollFlags::IN);
        if let Some((client, unsent)) = self.console.client() {
            // While the guest does not take what was typed, no more is read: the client waits, not the host's memory.
            let input = if self.typed.is_empty() { PollFlags::IN } else { PollFlags::empty() };
            let output = if unsent { PollFlags::OUT } else { PollFlags::empty() };
            watch(Source::ConsoleClient, client, input | output);
        }
        for fd in self.agent.iter().flat_map(AgentPort::watched) {
            watch(Source::Agent, fd, PollFlags::IN);
        }
        watch(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        for (id, fd) in self.connections.watched() {
            watch(Source::Connection(id), fd, PollFlags::IN);
        }
        // Between two pieces of a save others have their turn.
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let writing = self.saving.as_ref().is_some_and(Saving::writing);
        match rustix::event::poll(&mut watched, writing.then_some(&at_once)) {
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            other => other?,
        };
        let mut ready: Vec<_> = sources
            .into_iter()
            .zip(watched.iter().map(PollFd::revents))
            .filter(|(_, flags)| !flags.is_empty())
            .collect();
        ready.dedup_by_key(|(source, _)| *source);
        Ok(ready)
    }

    fn handle(&mut self, source: Source, flags: PollFlags) -> Option<Exit> {
        match source {
            Source::Termination => {
                return Some(Exit { reason: ExitReason::Killed, message: "berth-vmm was sent a signal to end".into() });
            }
            Source::Signals => return self.heed_signals(),
            Source::Output => self.print(),
            Source::InputDrained => {
                // Not readable any more means the same as read.
                let _ = self.guest.input_drained().read();
                self.type_more();
            }
            Source::ConsoleClient => self.serve_client(flags),
            Source::Agent => self.hear_agent(),
            Source::Listener => self.accept(),
            Source::Connection(id) => match self.connections.hear(id) {
                Said::Nothing => {}
                Said::ConsoleClosed => self.console.detach(),
                Said::Request(request, fds) => return self.serve_request(id, request, fds),
                Said::SaverClosed => self.go_on(),
                Said::EndSaved => {
                    let message = "the machine was saved and goes on from its state at the next start".to_owned();
                    return Some(Exit { reason: ExitReason::Saved, message });
                }
            },
        }
        None
    }

    fn heed_signals(&mut self) -> Option<Exit> {
        let signal = self.guest.signals().try_next()?;
        // A panic is printed before it resets.
        self.print();
        let (reason, message) = match signal {
            GuestSignal::PowerOff => (ExitReason::Shutdown, "the guest switched itself off".to_owned()),
            GuestSignal::Reset => match self.panics.last() {
                Some(panic) => (ExitReason::Panic, format!("the guest's kernel stopped: {panic}")),
                None => (ExitReason::Reboot, "the guest reset itself".to_owned()),
            },
            GuestSignal::Failed(text) => (ExitReason::Error, text),
        };
        Some(Exit { reason, message })
    }

    /// Takes what the guest printed.
    fn print(&mut self) {
        let bytes = self.guest.output().take();
        if bytes.is_empty() {
            return;
        }
        self.times.printed(&bytes);
        self.console.output(&bytes);
        if let Some(panic) = self.panics.feed(&bytes) {
            tracing::warn!(panic, "the guest's kernel panicked");
            self.connections.broadcast(&Event::Panic(panic));
        }
    }

    fn serve_client(&mut self, flags: PollFlags) {
        if flags.contains(PollFlags::OUT) {
            self.console.flush();
        }
        if !flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) || self.console.client().is_none() {
            return;
        }
        match self.console.input() {
            Input::Bytes(bytes) => {
                self.typed.extend(bytes);
                self.type_more();
            }
            Input::Detached => self.connections.close_console(),
        }
    }

    fn type_more(&mut self) {
        let taken = self.guest.input(self.typed.make_contiguous());
        self.typed.drain(..taken);
    }

    fn hear_agent(&mut self) {
        let news = self.agent.as_mut().map(AgentPort::handle).unwrap_or_default();
        for piece in news {
            self.connections.broadcast(&match piece {
                AgentNews::Ready(hello) => {
                    self.times.agent_ready();
                    Event::AgentReady(hello)
                }
                AgentNews::Lost => Event::AgentLost,
            });
        }
    }

    fn accept(&mut self) {
        if let Err(error) = self.listener.accept().and_then(|endpoint| self.connections.add(endpoint)) {
            tracing::warn!(%error, "a connection to the control socket is refused");
        }
    }

    fn serve_request(&mut self, id: Id, request: Request, fds: Vec<OwnedFd>) -> Option<Exit> {
        match request {
            Request::Save => self.save(id, fds),
            Request::Pause | Request::Resume | Request::Shutdown | Request::Change(_) if self.saving.is_some() => {
                self.connections.refuse(id, RefusalKind::Busy, "the machine is being saved; wait for that");
            }
            Request::Status => self.connections.answer(id, &Reply::Status(self.status()), None),
            Request::Subscribe => self.connections.subscribe(id, &Reply::Status(self.status())),
            Request::Console { force } => self.attach(id, force),
            Request::Pause => self.set_state(id, RunState::Paused),
            Request::Resume => self.set_state(id, RunState::Running),
            Request::Change(change) => self.change(id, change),
            Request::Shutdown => self.press_power_button(id),
            Request::Kill => {
                self.connections.answer(id, &Reply::Done, None);
                return Some(Exit { reason: ExitReason::Killed, message: "the machine was stopped by force".into() });
            }
            Request::Exec(_) | Request::Files | Request::Stats => self.connections.refuse(
                id,
                RefusalKind::NotSupported,
                "a virtual machine serves this through its agent; ask that over vsock",
            ),
            Request::Network => self.connections.refuse(id, RefusalKind::NotSupported, "only containers have this"),
        }
        None
    }

    fn status(&self) -> Status {
        Status {
            state: self.state,
            pid: self.pid,
            agent: self.agent.as_ref().and_then(AgentPort::hello).cloned(),
            panic: self.panics.last().map(str::to_owned),
            times: Some(self.times.get()),
        }
    }

    fn attach(&mut self, id: Id, force: bool) {
        match self.console.attach(force) {
            Ok(stream) => {
                // What the one before typed is not the new one's.
                self.typed.clear();
                self.connections.give_console(id, stream.as_fd());
            }
            Err(error @ AttachError::Busy) => self.connections.refuse(id, RefusalKind::Busy, error.to_string()),
            Err(error) => self.connections.refuse(id, RefusalKind::Other, error.to_string()),
        }
    }

    fn set_state(&mut self, id: Id, wanted: RunState) {
        if self.state != wanted {
            match wanted {
                RunState::Paused => self.guest.pause(),
                RunState::Running => self.guest.resume(),
            }
            self.state = wanted;
            self.connections.broadcast(&Event::State(wanted));
        }
        self.connections.answer(id, &Reply::Done, None);
    }

    /// Begins a save.
    fn save(&mut self, id: Id, fds: Vec<OwnedFd>) {
        if self.saving.is_some() {
            return self.connections.refuse(id, RefusalKind::Busy, "the machine is being saved already; wait for that");
        }
        let Ok([state, ram]) = <[OwnedFd; 2]>::try_from(fds) else {
            return self.connections.refuse(id, RefusalKind::Other, "a save needs two files");
        };
        self.guest.pause();
        match Saving::begin(&mut self.guest, id, state, ram) {
            Ok(saving) => {
                self.connections.keep_saver(id);
                self.saving = Some(saving);
            }
            Err(error) => {
                self.connections.refuse(id, RefusalKind::Other, format!("the machine cannot be saved: {error}"));
                self.go_on();
            }
        }
    }

    /// Writes the next piece of what is being saved.
    fn write_on(&mut self) {
        let Some(saving) = self.saving.as_mut().filter(|saving| saving.writing()) else { return };
        let id = saving.connection;
        match saving.step() {
            Ok(false) => {}
            // One that is gone shows as closed.
            Ok(true) => drop(self.connections.tell_saved(id)),
            Err(error) => {
                self.connections.refuse(id, RefusalKind::Other, format!("the machine cannot be saved: {error}"));
                self.go_on();
            }
        }
    }

    /// The machine goes on as it was before a save.
    fn go_on(&mut self) {
        self.saving = None;
        // Resuming lets held devices go on too; a machine that was paused goes on when it is resumed.
        if self.state == RunState::Running {
            self.guest.resume();
        }
    }

    fn change(&mut self, id: Id, change: serde_json::Value) {
        let changed = match serde_json::from_value(change) {
            Ok(change) => self.guest.change(&change).map_err(|error| error.to_string()),
            Err(error) => Err(format!("the change was not understood: {error}; restart the instance to make it")),
        };
        match changed {
            Ok(()) => self.connections.answer(id, &Reply::Done, None),
            Err(message) => self.connections.refuse(id, RefusalKind::Other, message),
        }
    }

    fn press_power_button(&mut self, id: Id) {
        if self.state == RunState::Paused {
            return self.connections.refuse(
                id,
                RefusalKind::Other,
                "the machine is paused and cannot notice its power button; resume it first",
            );
        }
        match self.guest.press_power_button() {
            Ok(()) => self.connections.answer(id, &Reply::Done, None),
            Err(error) => {
                let message = format!("the power button cannot be pressed: {error}; stop the machine by force");
                self.connections.refuse(id, RefusalKind::Other, message);
            }
        }
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
