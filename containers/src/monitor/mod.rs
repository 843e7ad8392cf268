//! `berth-container monitor`: makes a container and stays with it until its end.

mod console;
mod devices;
mod proxies;
mod requests;
mod serve;
mod session;
mod stats;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_supervisor::handshake::{self, FdIndex, PROTOCOL_VERSION, Proceed, Progress, Start};
use berth_supervisor::protocol::{CONTROL_SOCKET, Exit, ExitReason};
use berth_supervisor::record::Identity;
use berth_supervisor::transport::{Endpoint, Listener};
use rustix::event::{PollFd, PollFlags, poll};

use self::proxies::Proxies;
use crate::cgroup::Cgroups;
use crate::devices::Placed;
use crate::error::{Context, Error, Result};
use crate::init::Init;
use crate::process::{self, End, OwnBinary};
use crate::spec::ContainerSpec;
use crate::sys;
use crate::templates::Templates;

/// Limit of descriptors for the container's programs, if the daemon's own is lower.
const DESCRIPTORS: u64 = 1_048_576;

/// Runs to the end of the container. The daemon is told of a failure to start it by the handshake.
pub fn main(run_dir: &Path) -> Result<()> {
    // What else the daemon may have left open would stay open as long as the container runs.
    // SAFETY: first thing in the process; all it owns are the standard descriptors and that of the handshake.
    unsafe { sys::close_from(handshake::HANDSHAKE_FD as u32 + 1) }.context("close inherited descriptors")?;
    let daemon = handshake::take_endpoint().context("take the handshake's socket")?;
    match start(run_dir, &daemon) {
        Ok(server) => {
            drop(daemon);
            server.run()
        }
        Err(e) => {
            // Everything is undone by now. If the daemon is gone nobody is left to be told.
            let _ = daemon.send(&Progress::Failed { message: e.to_string() }, &[]);
            Err(e)
        }
    }
}

/// A container that exists. Dropped before it has ended, it is killed; its cgroups go in any case.
#[derive(Debug)]
struct Container {
    spec: ContainerSpec,
    cgroups: Cgroups,
    init: Option<Init>,
    end: Option<End>,
    /// Its devices that are in place.
    placed: BTreeMap<String, Placed>,
    proxies: Proxies,
}

impl Container {
    fn init(&self) -> &Init {
        self.init.as_ref().expect("a container that is served has an init")
    }

    /// Kills init, and with it the kernel kills all processes of the container.
    fn kill(&self) {
        if let Some(init) = &self.init {
            process::kill(init.pidfd.as_fd());
            // What the first freezer holds can only die when it is let go; the second needs no such help.
            let _ = self.cgroups.freeze(false);
        }
    }

    /// Why it ended.
    fn exit(&self, killed: bool) -> Exit {
        let init = self.spec.init.first().map_or("init", String::as_str);
        let (reason, message) = match self.end {
            _ if killed => (ExitReason::Killed, "it was stopped by force".to_owned()),
            // How the kernel ends the init of a process namespace in which reboot(2) was called.
            Some(End::Signaled(libc::SIGHUP)) => (ExitReason::Reboot, "it asked for a reboot".into()),
            Some(End::Signaled(libc::SIGINT)) => (ExitReason::Shutdown, "it shut itself down".into()),
            Some(End::Exited(0)) => (ExitReason::Shutdown, format!("its {init} ended")),
            Some(End::Exited(code)) => (ExitReason::Error, format!("its {init} ended with status {code}")),
            Some(End::Signaled(libc::SIGKILL)) => (
                ExitReason::Error,
                format!("its {init} was killed, perhaps because memory ran out; see the host's kernel log"),
            ),
            Some(End::Signaled(signal)) => (ExitReason::Error, format!("its {init} was ended by signal {signal}")),
            None => (ExitReason::Error, "its monitor failed".into()),
        };
        Exit { reason, message }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.end.is_none()
            && let Some(init) = &self.init
        {
            self.kill();
            let _ = process::wait(init.pidfd.as_fd());
        }
        if let Err(e) = self.cgroups.remove() {
            complain(&format!("{e}; the next start of {} tries again", self.spec.name));
        }
    }
}

fn start(run_dir: &Path, daemon: &Endpoint) -> Result<serve::Server> {
    // Fails only for a group leader, which then is detached from the daemon's session anyway.
    let _ = rustix::process::setsid();
    let signals = sys::signal_fd(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]).context("watch for signals")?;
    sys::raise_descriptor_limit(DESCRIPTORS).context("raise the limit of descriptors")?;
    let binary = OwnBinary::open()?;
    let start: Option<(Start<ContainerSpec>, _)> = daemon.recv().context("read the container's specification")?;
    let (start, fds) = start.ok_or_else(|| Error::Handshake("the daemon is gone".into()))?;
    if start.protocol != PROTOCOL_VERSION {
        return Err(Error::Handshake(format!(
            "the daemon speaks version {} of the protocol, this berth-container {PROTOCOL_VERSION}; install both from \
             the same release",
            start.protocol
        )));
    }
    start.spec.check()?;
    let templates = templates(&start.spec, fds)?;
    let identity = Identity::of(std::process::id()).context("find the own identity")?;
    identity.save(run_dir).with_context(|| format!("write the identity to {}", run_dir.display()))?;
    let mut container = make(start.spec)?;
    container.cgroups.create(&container.spec.limits, container.spec.idmap)?;
    container.cgroups.enter_monitor()?;
    container.init = Some(Init::create(&container.spec, &templates, &container.cgroups)?);
    let children = container.place_devices(&binary)?;
    let netns = container.init().network()?;
    hand_over(daemon, &container, &netns)?;
    let control = run_dir.join(CONTROL_SOCKET);
    let listener = Listener::bind(&control).with_context(|| format!("listen on {}", control.display()))?;
    let server = serve::Server::new(container, listener, binary, signals, run_dir)?.with_children(children);
    server.start_init()?;
    // A daemon that is gone now finds the container by its control socket.
    let _ = daemon.send(&Progress::Running, &[]);
    Ok(server)
}

/// The templates that the daemon handed over with the specification.
fn templates(spec: &ContainerSpec, fds: Vec<OwnedFd>) -> Result<Templates> {
    let Some(FdIndex(index)) = spec.templates else { return Ok(Templates::default()) };
    let missing = || Error::Handshake("the daemon handed over no templates".into());
    Templates::read(fds.into_iter().nth(index as usize).ok_or_else(missing)?)
}

/// The container before anything of it is there, rid of what a killed monitor left.
fn make(spec: ContainerSpec) -> Result<Container> {
    let cgroups = Cgroups::discover(&spec.uuid)?;
    cgroups.remove()?;
    Ok(Container { spec, cgroups, init: None, end: None, placed: BTreeMap::new(), proxies: Proxies::default() })
}

/// Lets the daemon move network devices in and waits for its leave.
fn hand_over(daemon: &Endpoint, container: &Container, netns: &OwnedFd) -> Result<()> {
    let init = container.init();
    let created = Progress::Created { init_pid: Some(init.pid.as_raw_nonzero().get() as u32) };
    daemon.send(&created, &[netns.as_fd()]).context("report to the daemon")?;
    let mut fds = [PollFd::new(daemon, PollFlags::IN), PollFd::new(&init.pidfd, PollFlags::IN)];
    while let Err(e) = poll(&mut fds, None) {
        if e != rustix::io::Errno::INTR {
            return Err(e).context("wait for the daemon");
        }
    }
    if !fds[1].revents().is_empty() {
        return Err(Error::Init("the container's first process was killed before it could start".into()));
    }
    let proceed: Option<(Proceed, _)> = daemon.recv().context("hear the daemon")?;
    proceed.map(drop).ok_or_else(|| Error::Handshake("the daemon is gone".into()))
}

/// Writes a line to the log. That it cannot be written, as on a full disk, must not end the monitor, as `eprintln` would.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "berth-container: {text}");
}
