//! `berth-container exec`: runs a program inside the container.
//!
//! The helper is a fresh process that holds nothing of the monitor's. It joins the container from outside in, cgroups
//! first, makes the program's process as a *sibling* (`CLONE_PARENT`), so that the monitor gets its status itself,
//! hands over what belongs to it and ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use berth_guest::protocol::ExecSpec;
use berth_supervisor::protocol::RefusalKind;
use berth_supervisor::transport::Endpoint;
use rustix::fs::CWD;
use rustix::process::{DumpableBehavior, Gid, Signal, Uid};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::spec::Rlimit;
use crate::{init, process, pty, rlimits, seccomp, sys, users};

/// All namespaces of a container, the user namespace among them: without it the program would be the host's root.
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

/// What the monitor hands over. Descriptors: the pidfd of init; stdin, stdout and stderr unless a terminal is
/// wanted; the rest are the cgroups' process lists.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Instructions {
    pub(crate) spec: ExecSpec,
    pub(crate) rlimits: BTreeMap<String, Rlimit>,
}

/// What the helper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Made {
    /// Descriptors: pidfd of the program's process; stream on which that waits for one byte and tells [`Birth`];
    /// terminal's master if any.
    Program,
    Failed(String),
}

/// What a program's process tells before it is the program. The end of the pipe after `Pid` alone is success.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Birth {
    Running {
        pid: u32,
    },
    Failed {
        kind: RefusalKind,
        message: String,
    },
    /// It was killed.
    Nothing,
}

/// The helper's main.
pub fn main() -> Result<()> {
    // SAFETY: the helper was started with this descriptor and touches it nowhere else.
    let socket = unsafe { sys::take_fd(process::HELPER_FD) }.context("take the instructions")?;
    let socket = Endpoint::from_fd(socket);
    if let Err(e) = run(&socket) {
        let _ = socket.send(&Made::Failed(e.to_string()), &[]);
    }
    Ok(())
}

fn run(socket: &Endpoint) -> Result<()> {
    // Whatever happens, nothing in the container may look into this process or steer it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context("protect the helper")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie the helper to the monitor")?;
    let (instructions, fds): (Instructions, _) = socket
        .recv()
        .context("read the instructions")?
        .ok_or_else(|| Error::Handshake("the monitor is gone".into()))?;
    let Instructions { spec, rlimits } = instructions;
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| Error::Handshake("a descriptor is missing".into()));
    let container = next()?;
    let stdio = match spec.terminal {
        Some(_) => None,
        None => Some([next()?, next()?, next()?]),
    };
    for cgroup in fds {
        rustix::io::write(&cgroup, b"0").context("join the container's cgroups")?;
    }
    // Inside, none could be raised any more.
    sys::ordinary_limits().context("set the program's limits")?;
    rlimits::set(None, &rlimits)?;
    sys::setns(container.as_fd(), NAMESPACES).context("enter the container")?;
    drop(container);
    init::become_root()?;
    // Entering the user namespace and the change of ids have undone both.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context("protect the helper")?;
    let mut master = None;
    let stdio = match (stdio, spec.terminal) {
        (Some(stdio), _) => stdio,
        (None, size) => {
            let (opened, _) = pty::open_master(CWD, "/dev/pts/ptmx").context("open the container's /dev/pts/ptmx")?;
            let slave = terminal(&opened, &spec, size)?;
            master = Some(opened);
            slave
        }
    };
    let (mut ours, theirs) = UnixStream::pair().context("make a socket pair")?;
    let body = || {
        // The copy of the monitor's end must go, or its end would not be seen.
        drop(std::mem::replace(&mut ours, theirs.try_clone().expect("a descriptor can be copied")));
        child(&spec, &stdio, &theirs)
    };
    // SAFETY: this helper has a single thread.
    let child = unsafe { sys::fork(libc::CLONE_PARENT, None, body) }
        .context("make the program's process (is the container's limit of processes reached?)")?;
    let mut handed = vec![child.pidfd.as_fd(), ours.as_fd()];
    handed.extend(master.as_ref().map(AsFd::as_fd));
    socket.send(&Made::Program, &handed).context("hand the program over")
}

/// The slave for stdin, stdout and stderr, owned by the program's user.
fn terminal(
    master: &OwnedFd,
    spec: &ExecSpec,
    size: Option<berth_guest::protocol::WindowSize>,
) -> Result<[OwnedFd; 3]> {
    let slave = pty::open_slave(master.as_fd()).context("open the terminal")?;
    rustix::fs::fchown(&slave, Some(Uid::from_raw(spec.uid)), None).context("give the terminal to its user")?;
    if let Some(size) = size {
        pty::resize(master, size).context("set the terminal's size")?;
    }
    let copy = || slave.try_clone().context("copy the terminal");
    Ok([copy()?, copy()?, copy()?])
}

fn child(spec: &ExecSpec, stdio: &[OwnedFd; 3], mut report: &UnixStream) -> i32 {
    // Until the monitor has got hold of this process, its end must be this process's end.
    if !matches!(report.read(&mut [0; 1]), Ok(1)) {
        return 1;
    }
    let Err((kind, error)) = become_program(spec, stdio, report);
    let code: u8 = match kind {
        RefusalKind::NotFound => 1,
        RefusalKind::PermissionDenied => 2,
        _ => 0,
    };
    // If nobody listens any more nobody wants to know.
    let _ = report.write_all(&[code]).and_then(|()| report.write_all(error.to_string().as_bytes()));
    1
}

type Refusal = (RefusalKind, Error);

fn become_program(spec: &ExecSpec, stdio: &[OwnedFd; 3], report: &UnixStream) -> Result<Infallible, Refusal> {
    prepare(spec, stdio, report).map_err(|e| (RefusalKind::Other, e))?;
    let mut command = Command::new(&spec.command[0]);
    command.args(&spec.command[1..]).env_clear().envs(&spec.env);
    let error = command.exec();
    let kind = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => RefusalKind::NotFound,
        Some(libc::EACCES | libc::EPERM | libc::ENOEXEC | libc::ELOOP | libc::EISDIR | libc::ETXTBSY) => {
            RefusalKind::PermissionDenied
        }
        _ if error.kind() == io::ErrorKind::InvalidInput => RefusalKind::NotFound,
        _ => RefusalKind::Other,
    };
    Err((kind, Error::Init(format!("cannot run {:?} in the container: {error}", spec.command[0]))))
}

fn prepare(spec: &ExecSpec, stdio: &[OwnedFd; 3], mut report: &UnixStream) -> Result<()> {
    let pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
    report.write_all(&pid.to_le_bytes()).context("tell the process id")?;
    rustix::process::setsid().context("begin a session")?;
    if spec.terminal.is_some() {
        rustix::process::ioctl_tiocsctty(&stdio[0]).context("take the terminal")?;
    }
    // Out of the way of the numbers they will have, or one would overwrite another.
    let mut moved = Vec::new();
    for fd in stdio {
        moved.push(rustix::io::fcntl_dupfd_cloexec(fd, 10).context("open the standard descriptors")?);
    }
    for (fd, target) in moved.iter().zip(0..) {
        sys::install_fd(fd.as_fd(), target).context("open the standard descriptors")?;
    }
    sys::new_session_keyring().context("make a session keyring")?;
    sys::unblock_signals().context("unblock signals")?;
    let user = users::look_up(spec.uid, spec.gid);
    seccomp::apply().context("apply the system call filter")?;
    let groups: Vec<_> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).context("set the program's groups")?;
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).with_context(|| format!("become group {}", spec.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).with_context(|| format!("become user {}", spec.uid))?;
    enter_directory(spec.cwd.as_deref(), user.home.as_deref())?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie the program to the monitor")?;
    sys::cloexec_from(3).context("close the helper's descriptors")
}

/// As the program's user, and after the ids are set: a directory is only entered by who may.
fn enter_directory(wanted: Option<&str>, home: Option<&str>) -> Result<()> {
    match wanted {
        Some(path) => rustix::process::chdir(path).with_context(|| format!("enter the directory {path}")),
        None => match home.map(rustix::process::chdir) {
            Some(Ok(())) => Ok(()),
            _ => rustix::process::chdir("/").context("enter /"),
        },
    }
}

impl Birth {
    /// Understands what came until the end of the stream.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let Some((pid, rest)) = bytes.split_first_chunk::<4>() else { return Self::Nothing };
        let Some((code, text)) = rest.split_first() else { return Self::Running { pid: u32::from_le_bytes(*pid) } };
        let kind = match code {
            1 => RefusalKind::NotFound,
            2 => RefusalKind::PermissionDenied,
            _ => RefusalKind::Other,
        };
        Self::Failed { kind, message: String::from_utf8_lossy(text).into_owned() }
    }
}
