//! Confinement of the helper: what touches bytes from outside runs in namespaces of its own, sees only what it works
//! on, and keeps no privilege it does not need.

mod mounts;
mod seccomp;
pub mod sys;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

pub use mounts::Bind;
pub use seccomp::Filter;

/// `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_FSETID`, `CAP_SETFCAP`: restoring owners, modes and file
/// capabilities of somebody else's files needs these and no more (`CAP_MKNOD` is not among them).
pub const RESTORE_FILES: &[u32] = &[0, 1, 3, 4, 31];

/// The same with `CAP_MKNOD`, for those who make some character devices.
pub const RESTORE_DEVICES: &[u32] = &[0, 1, 3, 4, 27, 31];

/// The user without rights of its own that parsers run as.
const NOBODY: u32 = 65534;

/// How tightly a job is held.
#[derive(Debug)]
pub struct Confinement {
    /// What of the host is visible.
    pub binds: Vec<Bind>,
    /// Whether the host's programs are visible (read-only).
    pub tools: bool,
    /// Capabilities kept; with none the job also stops being root.
    pub capabilities: &'static [u32],
    /// System call filter.
    pub filter: Filter,
    /// Largest file the job may write.
    pub file_size: u64,
    /// Largest address space.
    pub memory: u64,
    /// Seconds of processor time after which the job is ended.
    pub seconds: u64,
}

/// Runs `job` confined, in a child process, and gives the child's exit code.
///
/// `job` must report its outcome itself (on a descriptor it holds) and return its exit code. If this process dies,
/// the child and everything it started die with it.
pub fn run(confinement: &Confinement, job: impl FnOnce() -> i32) -> io::Result<i32> {
    spawn(confinement, job)?.wait()
}

/// A confined job that runs.
#[derive(Debug)]
pub struct Running {
    pid: i32,
    // Its closing tells a child that is not yet bound to this process that it is alone.
    _alive: OwnedFd,
}

impl Running {
    /// Ends the job and everything it started.
    pub fn kill(&self) {
        sys::kill(self.pid);
    }

    /// Waits for the job's end.
    pub fn wait(self) -> io::Result<i32> {
        sys::wait(self.pid)
    }
}

/// Starts `job` confined, as [`run`], without waiting for it.
pub fn spawn(confinement: &Confinement, job: impl FnOnce() -> i32) -> io::Result<Running> {
    spawn_with(|| restrict(confinement), job)
}

/// Starts `job` as root in a pid and a mount namespace of its own after `prepare` has run there.
pub fn spawn_with(prepare: impl FnOnce() -> io::Result<()>, job: impl FnOnce() -> i32) -> io::Result<Running> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    sys::unshare(libc::CLONE_NEWPID)?;
    match sys::fork()? {
        sys::Fork::Parent(pid) => {
            drop(ours);
            let mut go = std::fs::File::from(theirs);
            go.write_all(b"g")?;
            Ok(Running { pid, _alive: go.into() })
        }
        sys::Fork::Child => {
            drop(theirs);
            let code = match bind_to_parent(ours).and_then(|()| prepare()) {
                Ok(()) => job(),
                Err(error) => {
                    crate::wire::fail(&crate::wire::Failure::internal(format!("cannot confine the helper: {error}")));
                    1
                }
            };
            sys::exit_now(code)
        }
    }
}

/// From here on the child cannot outlive its parent: a parent that died before the death signal was set has
/// closed the pipe without a word.
fn bind_to_parent(pipe: OwnedFd) -> io::Result<()> {
    sys::die_with_parent()?;
    let mut word = [0];
    std::fs::File::from(pipe).read_exact(&mut word)
}

fn restrict(confinement: &Confinement) -> io::Result<()> {
    let step = |name: &'static str| move |e: io::Error| io::Error::new(e.kind(), format!("{name}: {e}"));
    sys::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS).map_err(step("unshare"))?;
    mounts::enter(&confinement.binds, confinement.tools).map_err(step("mounts"))?;
    sys::set_limit(libc::RLIMIT_FSIZE, confinement.file_size).map_err(step("limits"))?;
    sys::set_limit(libc::RLIMIT_AS, confinement.memory).map_err(step("limits"))?;
    sys::set_limit(libc::RLIMIT_CPU, confinement.seconds).map_err(step("limits"))?;
    sys::set_limit(libc::RLIMIT_CORE, 0).map_err(step("limits"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    sys::no_new_privileges().map_err(step("no_new_privs"))?;
    if confinement.capabilities.is_empty() {
        sys::become_user(NOBODY).map_err(step("change user"))?;
    } else {
        sys::keep_capabilities(confinement.capabilities).map_err(step("capabilities"))?;
    }
    seccomp::apply(confinement.filter).map_err(step("seccomp"))
}

/// Room a job may fill in `dir`: what is free less a twentieth of the filesystem, and at most `limit`.
pub fn room(dir: impl AsFd, limit: u64) -> io::Result<u64> {
    let (free, total) = sys::space(dir.as_fd())?;
    Ok(limit.min(free.saturating_sub(total / 20)))
}
