//! `berth-vmm run`: the process around one machine.
//!
//! ```text
//!   keeper   Start ─ open all that is needed ─ fork ────────────────────────────────────────── exit.json ─ clean up
//!   guest's                  confine ─ build ─ Created ─ Proceed ─ resume ─ Running ─ serve … ─ Exited
//! ```
//!
//! The first process, the [`keeper`], is root without capabilities and touches nothing of the guest. The second is a user of
//! its own in namespaces of its own. Its first thread owns the machine and everything the daemon can reach; it waits
//! in one place ([`serve`]) and never for anybody in particular.

mod agent;
mod confine;
mod connections;
mod handshake;
mod keeper;
mod panics;
mod resources;
mod saving;
mod serve;
mod sys;
mod times;

use std::io;
use std::path::Path;

use berth_supervisor::handshake::{Progress, take_endpoint};
use berth_supervisor::protocol::{CONTROL_SOCKET, Event, Exit};
use berth_supervisor::record::Identity;
use berth_supervisor::transport::Endpoint;
use rustix::thread::UnshareFlags;

use crate::kvm::KvmError;
use crate::machine::{self, BuildError, Guest, Machine};
use crate::seccomp;
use crate::spec::{SpecError, VmSpec};

use keeper::{Keeper, Outcome, Told};
use resources::{Resources, VSOCK_DIR};
use serve::Supervisor;
use sys::{Fork, Termination};
use times::Times;

pub use confine::{begin, enter};

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
    match prepare(&endpoint, run_dir) {
        Ok(prepared) => prepared.keep(endpoint, times),
        Err(error) => {
            // The daemon may be the reason and gone; then there is nobody to tell.
            let _ = endpoint.send(&Progress::Failed { message: error.to_string() }, &[]);
            Err(error)
        }
    }
}

/// Files of the run directory that go with the machine.
struct Fleeting {
    /// The guest ran: the identity is what the daemon finds the machine by, to its end and after.
    ran: bool,
}

impl Drop for Fleeting {
    fn drop(&mut self) {
        // What was not made yet, or whose directory is gone already, is as good.
        let _ = std::fs::remove_file(CONTROL_SOCKET);
        let _ = std::fs::remove_dir_all(VSOCK_DIR);
        if !self.ran {
            let _ = std::fs::remove_file(IDENTITY_FILE);
        }
    }
}

/// All that is done before the processes part.
struct Prepared {
    spec: VmSpec,
    resources: Resources,
    termination: Termination,
    fleeting: Fleeting,
}

fn prepare(endpoint: &Endpoint, run_dir: &Path) -> Result<Prepared, ProcessError> {
    confine::begin().map_err(io_error("confine the process"))?;
    let termination = Termination::new().map_err(io_error("watch for signals"))?;
    // Short names in the run directory stay below the limit of unix socket paths, however long its own path is.
    std::env::set_current_dir(run_dir).map_err(io_error(format!("enter the run directory {}", run_dir.display())))?;
    let (spec, fds) = handshake::receive_start(endpoint)?;
    spec.validate()?;
    let fleeting = Fleeting { ran: false };
    Identity::of(std::process::id())
        .and_then(|identity| identity.save(Path::new(".")))
        .map_err(io_error("write the identity file"))?;
    let resources = Resources::open(&spec, fds)?;
    Ok(Prepared { spec, resources, termination, fleeting })
}

impl Prepared {
    /// Makes the process of the guest and keeps it to its end.
    fn keep(self, endpoint: Endpoint, times: Times) -> Result<(), ProcessError> {
        let Self { spec, resources, termination, mut fleeting } = self;
        let keeper = divide(spec, resources, endpoint, times).map_err(io_error("make the process of the guest"))?;
        confine::keep_only_kill().map_err(io_error("give up capabilities"))?;
        let outcome = keeper.wait(&termination).map_err(io_error("wait for the process of the guest"))?;
        if let Outcome::Ran(exit) = outcome {
            fleeting.ran = true;
            keeper::record(&exit).map_err(io_error("write the reason of the end"))?;
        }
        Ok(())
    }
}

/// Makes the process of the guest, the first of a process namespace of its own.
fn divide(spec: VmSpec, resources: Resources, endpoint: Endpoint, times: Times) -> io::Result<Keeper> {
    let (told, keeper) = Endpoint::pair()?;
    sys::leave_namespaces(UnshareFlags::NEWPID)?;
    // SAFETY: no thread has been begun.
    match unsafe { sys::fork() }? {
        Fork::Child => {
            drop(told);
            sys::end_with(|| hold(&spec, resources, endpoint, &keeper, times))
        }
        Fork::Parent(pid) => {
            // What is open here would stay open when the guest's process lets go of it.
            drop((resources, keeper));
            Keeper::new(pid, told, endpoint)
        }
    }
}

/// The life of the process of the guest; gives its exit status.
fn hold(spec: &VmSpec, resources: Resources, endpoint: Endpoint, keeper: &Endpoint, times: Times) -> i32 {
    match start(spec, resources, &endpoint, keeper, times) {
        Ok(supervisor) => {
            drop(endpoint);
            finish(supervisor, keeper);
            0
        }
        Err(error) => {
            tracing::error!("{error}");
            let _ = endpoint.send(&Progress::Failed { message: error.to_string() }, &[]);
            1
        }
    }
}

/// Everything up to [`Progress::Running`].
fn start(
    spec: &VmSpec,
    resources: Resources,
    endpoint: &Endpoint,
    keeper: &Endpoint,
    times: Times,
) -> Result<Supervisor<Machine>, ProcessError> {
    let visible = spec.vsock_cid.map(|_| Path::new(VSOCK_DIR));
    confine::enter(spec.user, visible).map_err(io_error("confine the process of the guest"))?;
    let pid = meet(keeper)?;
    let termination = Termination::new().map_err(io_error("watch for signals"))?;
    let Resources { kvm, console, control, agent, plan } = resources;
    let mut guest = machine::build(&kvm, plan)?;
    drop(kvm);
    seccomp::owner().and_then(|filter| filter.enter()).map_err(io_error("filter the system calls of the VMM"))?;
    handshake::send(endpoint, &Progress::Created { init_pid: None })?;
    handshake::receive_proceed(endpoint, &termination)?;
    guest.resume();
    // A keeper that is gone takes this process with it.
    let _ = keeper.send(&Told::Running, &[]);
    handshake::send(endpoint, &Progress::Running)?;
    tracing::info!(name = spec.name, vcpus = spec.vcpus, memory = spec.memory, "the machine runs");
    Ok(Supervisor::new(guest, console, control, agent, termination, times, pid))
}

/// Learns the own process id from the keeper, which, from here on, does not go without this process.
fn meet(keeper: &Endpoint) -> Result<u32, ProcessError> {
    let answer = keeper.send(&Told::Confined, &[]).and_then(|()| keeper.recv::<u32>());
    match answer.map_err(io_error("hear from the keeper"))? {
        Some((pid, _)) => Ok(pid),
        None => Err(ProcessError::CalledOff),
    }
}

/// Serves until the machine ends and tells the reason.
fn finish(mut supervisor: Supervisor<Machine>, keeper: &Endpoint) {
    let exit: Exit = supervisor.serve();
    tracing::info!(reason = ?exit.reason, message = exit.message, "the machine ended");
    // Devices let go of their files before anybody hears of the end.
    let mut connections = supervisor.end();
    let _ = keeper.send(&Told::Ended(exit.clone()), &[]);
    connections.broadcast(&Event::Exited(exit));
}
