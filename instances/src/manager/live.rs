//! The part of an instance's owner that deals with its supervisor.

use std::os::fd::OwnedFd;
use std::path::Path;

use berth_guest::protocol::Hello;
use berth_supervisor::protocol::{Event, Exit, ExitReason, Reply, RunState};
use berth_supervisor::record::{self, Identity};
use berth_supervisor::transport::AsyncEndpoint;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::Answer;
pub(super) use crate::documents::Then;
use crate::drivers::Started;
use crate::error::{Error, Result};
use crate::sys;

/// A supervisor that lives.
pub(super) struct Live {
    identity: Identity,
    /// Closed by the supervisor's end.
    events: AsyncEndpoint,
    pub pid: u32,
    pub state: RunState,
    pub agent: Option<Hello>,
    /// Set while somebody waits for the end.
    pub stopping: Option<Stopping>,
    /// What the supervisor told as its last event.
    exit: Option<Exit>,
    /// Closes the socket on which the instance asks about itself.
    _door: Option<DropGuard>,
}

/// Those who wait for the end of an instance.
pub(super) struct Stopping {
    /// When they give up.
    pub deadline: Option<Instant>,
    pub then: Then,
    pub answers: Vec<Answer<()>>,
}

/// What the supervisor said.
pub(super) enum Heard {
    /// Something changed that others may want to see.
    Change(Option<&'static str>),
    /// The agent is up.
    Ready,
    /// It ended.
    End,
}

impl Live {
    pub fn new(started: Started, door: Option<DropGuard>) -> Self {
        let Started { identity, events, status } = started;
        let (pid, state, agent) = (status.pid, status.state, status.agent);
        Self { identity, events, pid, state, agent, stopping: None, exit: None, _door: door }
    }

    /// Waits for the supervisor to say something. Cancel safe.
    pub async fn hear(&mut self) -> Heard {
        match self.events.recv::<Reply>().await {
            Ok(Some((Reply::Event(event), _))) => self.take(event),
            Ok(Some(_)) => Heard::Change(None),
            Ok(None) | Err(_) => Heard::End,
        }
    }

    fn take(&mut self, event: Event) -> Heard {
        match event {
            Event::State(state) => {
                self.state = state;
                Heard::Change(Some(match state {
                    RunState::Running => "instance-resumed",
                    RunState::Paused => "instance-paused",
                }))
            }
            Event::AgentReady(hello) => {
                self.agent = Some(hello);
                Heard::Ready
            }
            Event::AgentLost => {
                self.agent = None;
                Heard::Change(None)
            }
            Event::Panic(line) => {
                tracing::warn!(pid = self.pid, "the kernel of a guest panicked: {line}");
                Heard::Change(None)
            }
            // The process is not gone yet; its end closes the connection.
            Event::Exited(exit) => {
                self.exit = Some(exit);
                Heard::Change(None)
            }
        }
    }

    /// Waits until the process is gone and tells why it ended.
    pub async fn reap(&mut self, run_dir: &Path) -> Result<Exit> {
        wait_gone(&self.identity).await?;
        if let Some(exit) = self.exit.take() {
            return Ok(exit);
        }
        last_words(run_dir)
    }
}

/// Waits until a process is gone.
pub(super) async fn wait_gone(identity: &Identity) -> Result<()> {
    let action = || format!("wait for process {}", identity.pid);
    let Some(pidfd): Option<OwnedFd> = identity.open().map_err(Error::io(action()))? else { return Ok(()) };
    // A pidfd is readable once its process has ended (pidfd_open(2)).
    let watched = sys::watch(pidfd).map_err(Error::io(action()))?;
    let _ready = watched.readable().await.map_err(Error::io(action()))?;
    Ok(())
}

/// Why the supervisor of a run directory ended, as far as it could tell.
pub(super) fn last_words(run_dir: &Path) -> Result<Exit> {
    let kept = record::load_exit(run_dir).map_err(Error::io(format!("read {}", run_dir.display())))?;
    Ok(kept.unwrap_or_else(|| Exit {
        reason: ExitReason::Error,
        message:
            "its supervisor was killed or the host went down; the files supervisor.log and console.log may tell more"
                .to_owned(),
    }))
}
