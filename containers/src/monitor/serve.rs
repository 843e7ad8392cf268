//! The monitor's event loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_supervisor::console::Console;
use berth_supervisor::protocol::{Event, Reply, RunState};
use berth_supervisor::record;
use berth_supervisor::transport::{Endpoint, Listener};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::console::Terminal;
use super::devices::Change;
use super::session::Session;
use super::stats::NetworkQuery;
use super::{Container, complain};
use crate::error::{Context, Result};
use crate::process::{self, OwnBinary};

/// Most connections at a time; beyond, new ones wait.
const CONNECTIONS_MAX: usize = 4096;

/// A running container with all that is attached to it. One thread, no waiting but in [`Server::wait`].
#[derive(Debug)]
pub(super) struct Server {
    pub(super) container: Container,
    listener: Listener,
    pub(super) binary: OwnBinary,
    signals: OwnedFd,
    run_dir: PathBuf,
    pub(super) terminal: Terminal,
    pub(super) state: RunState,
    pub(super) kill_requested: bool,
    connections: Vec<Connection>,
    next_connection: u64,
    /// Helpers and programs nobody waits for any more; they have to be reaped all the same.
    pub(super) children: Vec<OwnedFd>,
}

#[derive(Debug)]
pub(super) struct Connection {
    id: u64,
    pub(super) endpoint: Endpoint,
    pub(super) role: Role,
}

#[derive(Debug)]
pub(super) enum Role {
    /// Has not asked for anything yet.
    Asking,
    Subscribed,
    /// Console client of that number.
    Console(u64),
    Exec(Session),
    Stats(NetworkQuery),
    Change(Change),
}

/// What can become ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Signals,
    Listener,
    Init,
    Master,
    ConsoleClient,
    Child(usize),
    /// A client's socket.
    Socket(u64),
    /// What is done for a client.
    Work(u64),
}

impl Server {
    pub(super) fn new(
        container: Container,
        listener: Listener,
        binary: OwnBinary,
        signals: OwnedFd,
        run_dir: &Path,
    ) -> Result<Self> {
        let log = &container.spec.console_log;
        let console = Console::new(log).with_context(|| format!("open the console's log {}", log.display()))?;
        let master = container.init().console.try_clone().context("copy a descriptor")?;
        let terminal = Terminal::new(console, master).context("open the console")?;
        Ok(Self {
            container,
            listener,
            binary,
            signals,
            run_dir: run_dir.to_owned(),
            terminal,
            state: RunState::Running,
            kill_requested: false,
            connections: Vec::new(),
            next_connection: 0,
            children: Vec::new(),
        })
    }

    /// Processes that the container has already.
    pub(super) fn with_children(mut self, children: Vec<OwnedFd>) -> Self {
        self.children.extend(children);
        self
    }

    /// Lets the container's init run.
    pub(super) fn start_init(&self) -> Result<()> {
        self.container.init().run()
    }

    /// Serves until the container ends, then cleans up and tells why.
    pub(super) fn run(mut self) -> Result<()> {
        let result = self.serve();
        if result.is_err() {
            self.container.kill();
        }
        self.finish();
        result
    }

    fn serve(&mut self) -> Result<()> {
        loop {
            for (source, flags) in self.wait()? {
                match source {
                    Source::Signals => {
                        self.kill_requested = true;
                        self.drain_signals();
                        self.container.kill();
                    }
                    Source::Listener => self.accept()?,
                    Source::Init => {
                        let end = process::wait(self.container.init().pidfd.as_fd()).context("wait for init")?;
                        self.container.end = Some(end);
                        return Ok(());
                    }
                    Source::Master => self.terminal.on_master(),
                    Source::ConsoleClient => self.terminal.on_client(flags),
                    Source::Child(_) => self.reap(),
                    Source::Socket(id) => self.with_connection(id, Self::on_socket),
                    Source::Work(id) => self.with_connection(id, Self::on_work),
                }
            }
        }
    }

    /// Waits until something is ready.
    fn wait(&self) -> Result<Vec<(Source, PollFlags)>> {
        let mut watched: Vec<(Source, BorrowedFd<'_>, PollFlags)> = vec![
            (Source::Signals, self.signals.as_fd(), PollFlags::IN),
            (Source::Init, self.container.init().pidfd.as_fd(), PollFlags::IN),
            (Source::Master, self.terminal.master.as_fd(), self.terminal.interest()),
        ];
        if self.connections.len() < CONNECTIONS_MAX {
            watched.push((Source::Listener, self.listener.as_fd(), PollFlags::IN));
        }
        if let Some((client, has_output)) = self.terminal.console.client() {
            watched.push((Source::ConsoleClient, client, self.terminal.client_interest(has_output)));
        }
        for (index, child) in self.children.iter().enumerate() {
            watched.push((Source::Child(index), child.as_fd(), PollFlags::IN));
        }
        for connection in &self.connections {
            watched.push((Source::Socket(connection.id), connection.endpoint.as_fd(), PollFlags::IN));
            let work = match &connection.role {
                Role::Exec(session) => session.watched(),
                Role::Stats(query) => Some(query.stream.as_fd()),
                Role::Change(change) => Some(change.socket.as_fd()),
                Role::Asking | Role::Subscribed | Role::Console(_) => None,
            };
            if let Some(work) = work {
                watched.push((Source::Work(connection.id), work, PollFlags::IN));
            }
        }
        let mut fds: Vec<_> = watched.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut fds, None) {
            Err(Errno::INTR) => return Ok(Vec::new()),
            other => other.context("wait for events")?,
        };
        let ready = watched.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((source, ..), fd)| (*source, fd.revents())).collect())
    }

    fn drain_signals(&self) {
        let mut buffer = [0; 1024];
        while rustix::io::read(&self.signals, &mut buffer).is_ok_and(|length| length > 0) {}
    }

    fn accept(&mut self) -> Result<()> {
        // The client may have gone meanwhile, or descriptors are short; the next one is served again.
        let Ok(endpoint) = self.listener.accept() else { return Ok(()) };
        endpoint.set_nonblocking(true).context("accept a connection")?;
        self.next_connection += 1;
        self.connections.push(Connection { id: self.next_connection, endpoint, role: Role::Asking });
        Ok(())
    }

    /// Runs `work` on the connection, which is over if that returns none.
    fn with_connection(&mut self, id: u64, work: impl FnOnce(&mut Self, Connection) -> Option<Connection>) {
        // It may have been ended by an event before.
        let Some(index) = self.connections.iter().position(|connection| connection.id == id) else { return };
        let connection = self.connections.swap_remove(index);
        if let Some(connection) = work(self, connection) {
            self.connections.push(connection);
        }
    }

    /// Reaps the children that have ended.
    fn reap(&mut self) {
        let mut left = Vec::new();
        for child in self.children.drain(..) {
            let mut fds = [PollFd::new(&child, PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            if matches!(poll(&mut fds, Some(&now)), Ok(1)) {
                // One that is not ours to reap is gone from here in any case.
                let _ = process::wait(child.as_fd());
            } else {
                left.push(child);
            }
        }
        self.children = left;
    }

    /// Tells all subscribers. One that does not read is let go.
    pub(super) fn broadcast(&mut self, event: &Event) {
        let message = Reply::Event(event.clone());
        self.connections.retain(|connection| {
            !matches!(connection.role, Role::Subscribed) || connection.endpoint.send(&message, &[]).is_ok()
        });
    }

    /// The container has ended, or must: removes everything, then tells.
    fn finish(self) {
        let Self { mut container, listener, run_dir, mut terminal, kill_requested, connections, mut children, .. } =
            self;
        // A successor may be started as soon as the end is told; its socket must not be removed.
        drop(listener);
        while terminal.read() {}
        let mut subscribers = Vec::new();
        for connection in connections {
            match connection.role {
                Role::Exec(session) => end_session(session, &connection.endpoint, &mut children),
                Role::Subscribed => subscribers.push(connection.endpoint),
                Role::Asking | Role::Console(_) | Role::Stats(_) | Role::Change(_) => {}
            }
        }
        for child in &children {
            process::kill(child.as_fd());
            let _ = process::wait(child.as_fd());
        }
        if container.end.is_none() {
            container.kill();
            container.end = process::wait(container.init().pidfd.as_fd()).ok();
        }
        let exit = container.exit(kill_requested);
        drop(terminal);
        drop(container);
        if let Err(e) = record::save_exit(&run_dir, &exit) {
            complain(&format!("cannot write the reason of the end to {}: {e}", run_dir.display()));
        }
        let message = Reply::Event(Event::Exited(exit));
        for subscriber in subscribers {
            let _ = subscriber.send(&message, &[]);
        }
    }
}

/// Tells the client of a program that died with its container.
fn end_session(mut session: Session, client: &Endpoint, children: &mut Vec<OwnedFd>) {
    if let Ok(super::session::Next::Over(reply)) = session.died() {
        let _ = client.send(&reply, &[]);
    }
    children.extend(session.kill());
}
