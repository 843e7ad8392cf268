//! `berth-vmm run`: the process around one machine.
//!
//! ```text
//!   confine ─ handshake: Start ─ build ─ Created ─ Proceed ─ resume ─ Running ─ serve … ─ exit.json ─ Exited
//! ```
//!
//! One thread, the one that runs [`run`], owns the machine and everything the daemon can reach; it waits in one
//! place ([`serve`]) and never for anybody in particular.

mod agent;
mod confine;
mod connections;
mod handshake;
mod panics;
mod saving;
mod serve;
mod termination;
mod times;

use std::io;
use std::path::Path;

use berth_supervisor::console::Console;
use berth_supervisor::handshake::{Progress, take_endpoint};
use berth_supervisor::protocol::{CONTROL_SOCKET, Event, Exit};
use berth_supervisor::record::{self, Identity};
use berth_supervisor::transport::{Endpoint, Listener};

use crate::kvm::{self, KvmError};
use crate::machine::{self, BuildError, Guest, Machine};
use crate::spec::{OriginSpec, SpecError};

use agent::{AgentPort, Past};
use serve::Supervisor;
use termination::Termination;
use times::Times;

/// Where [`Identity::save`] writes to.
const IDENTITY_FILE: &str = "supervisor.json";

/// Why a machine did not come to run, or why its process ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Not started as it should be.
    #[error("{0}")]
    Endpoint(io::Error),
    /// The daemon's half of the handshake.
    #[error("the handshake with the daemon failed: {0}; restart the daemon if it was just upgraded")]
    Handshake(String),
    /// The daemon is gone, or sent a signal, before the machine ran.
    #[error("the start was called off before the machine ran")]
    CalledOff,
    /// The specification.
    #[error("the machine's specification is wrong: {0}")]
    Spec(#[from] SpecError),
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The machine.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Something in the run directory, or the process's own set-up.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ProcessError {
    let what = what.into();
    move |source| ProcessError::Io { what, source }
}

/// Runs the machine that the daemon hands over on descriptor 3 to its end.
pub fn run(run_dir: &Path) -> Result<(), ProcessError> {
    let times = Times::begin();
    let endpoint = take_endpoint().map_err(ProcessError::Endpoint)?;
    match start(&endpoint, run_dir, times) {
        Ok((supervisor, sockets)) => {
            drop(endpoint);
            let ended = finish(supervisor);
            drop(sockets);
            ended
        }
        Err(error) => {
            // The daemon may be the reason and gone; then there is nobody to tell.
            let _ = endpoint.send(&Progress::Failed { message: error.to_string() }, &[]);
            Err(error)
        }
    }
}

/// Files that are gone when this is dropped.
struct Fleeting(Vec<&'static str>);

impl Drop for Fleeting {
    fn drop(&mut self) {
        for name in &self.0 {
            // One that was not made yet, or whose directory is gone already, is as good.
            let _ = std::fs::remove_file(name);
        }
    }
}

/// Everything up to [`Progress::Running`]. On an error all that was made is gone again.
fn start(endpoint: &Endpoint, run_dir: &Path, times: Times) -> Result<(Supervisor<Machine>, Fleeting), ProcessError> {
    confine::begin().map_err(io_error("confine the process"))?;
    let termination = Termination::new().map_err(io_error("watch for signals"))?;
    // Short names in the run directory stay below the limit of unix socket paths, however long its own path is.
    std::env::set_current_dir(run_dir).map_err(io_error(format!("enter the run directory {}", run_dir.display())))?;
    let mut fleeting = Fleeting(vec![handshake::VSOCK_SOCKET, IDENTITY_FILE]);
    let (spec, fds) = handshake::receive_start(endpoint)?;
    spec.validate()?;
    let kvm = kvm::open()?;
    let log = &spec.console_log;
    let console = Console::new(log).map_err(io_error(format!("open the console's log {}", log.display())))?;
    let past = if matches!(spec.origin, OriginSpec::Saved { .. }) { Past::Saved } else { Past::Booted };
    let agent = match spec.vsock_cid {
        Some(_) => Some(AgentPort::listen(past).map_err(io_error("listen for the guest's agent"))?),
        None => None,
    };
    let vsock = handshake::vsock(&spec).map_err(io_error("listen for connections to the guest"))?;
    let plan = handshake::plan(&spec, fds, vsock)?;
    let mut guest = machine::build(&kvm, plan)?;
    drop(kvm);
    let listener = Listener::bind(Path::new(CONTROL_SOCKET)).map_err(io_error("make the control socket"))?;
    Identity::of(std::process::id())
        .and_then(|identity| identity.save(Path::new(".")))
        .map_err(io_error("write the identity file"))?;

    handshake::send(endpoint, &Progress::Created { init_pid: None })?;
    handshake::receive_proceed(endpoint, &termination)?;
    guest.resume();
    handshake::send(endpoint, &Progress::Running)?;
    tracing::info!(name = spec.name, vcpus = spec.vcpus, memory = spec.memory, "the machine runs");
    // From here on the identity is what the daemon finds the machine by, to its end and after.
    fleeting.0.retain(|name| *name != IDENTITY_FILE);
    Ok((Supervisor::new(guest, console, listener, agent, termination, times), fleeting))
}

/// Serves until the machine ends and keeps the reason.
fn finish(mut supervisor: Supervisor<Machine>) -> Result<(), ProcessError> {
    let exit: Exit = supervisor.serve();
    tracing::info!(reason = ?exit.reason, message = exit.message, "the machine ended");
    // Devices let go of their files before anybody hears of the end.
    let mut connections = supervisor.end();
    let saved = record::save_exit(Path::new("."), &exit);
    connections.broadcast(&Event::Exited(exit));
    saved.map_err(io_error("write the reason of the end"))
}
