//! From the monitor's `clone3` to the container's init.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use berth_supervisor::transport::Endpoint;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Pid, Signal, Uid};
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroups;
use crate::error::{Context, Error, Result};
use crate::mounts::{self, inside, stage::Stage};
use crate::spec::ContainerSpec;
use crate::templates::Templates;
use crate::{idmap, process, rlimits, seccomp, sys};

/// Namespaces that init begins in. Those of mounts and cgroups it makes itself when the time has come.
const NAMESPACES: i32 =
    libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;

/// What the monitor tells.
#[derive(Serialize, Deserialize)]
struct Go;

/// What the process that is to become init tells.
#[derive(Serialize, Deserialize)]
enum Report {
    /// Its root is built; comes with the console's master.
    Built,
    Failed(String),
}

/// A container whose first process is there and waits.
#[derive(Debug)]
pub(crate) struct Init {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) console: OwnedFd,
    channel: Endpoint,
}

impl Init {
    /// Makes the first process with its namespaces and its root. On failure it is gone again.
    pub(crate) fn create(spec: &ContainerSpec, templates: &Templates, cgroups: &Cgroups) -> Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("make a boot id")?;
        let (channel, remote) = Endpoint::pair().context("make a socket pair")?;
        let stage = Stage::enter(&spec.rootfs)?;
        let place = cgroups.unified_payload()?;
        // SAFETY: the monitor has a single thread.
        let child = unsafe {
            sys::fork(NAMESPACES, place.as_ref().map(AsFd::as_fd), || {
                child(spec, templates, cgroups, &boot_id, &remote)
            })
        }
        .context("make the container's first process (does this kernel allow user namespaces?)")?;
        drop(remote);
        let built = Self::accompany(spec, cgroups, &child, &stage, place.is_none(), &channel);
        match built {
            Ok(console) => Ok(Self { pid: child.pid, pidfd: child.pidfd, console, channel }),
            Err(e) => {
                process::kill(child.pidfd.as_fd());
                process::wait(child.pidfd.as_fd()).context("wait for the container's first process")?;
                Err(e)
            }
        }
    }

    /// Does for the child what only the host's root can, and waits until it has built its root.
    fn accompany(
        spec: &ContainerSpec,
        cgroups: &Cgroups,
        child: &sys::Forked,
        stage: &Stage,
        enter: bool,
        channel: &Endpoint,
    ) -> Result<OwnedFd> {
        idmap::write_maps(child.pid, spec.idmap)?;
        let userns = idmap::user_namespace(child.pid)?;
        stage.attach(userns.as_fd())?;
        if enter {
            cgroups.enter_payload(child.pid)?;
        }
        // The container's processes are worth as much as any other to the kernel when memory runs out, whatever
        // protects the daemon. Not everybody who runs us may lower the value.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", child.pid.as_raw_nonzero()), "0");
        channel.send(&Go, &[]).context("speak to the container's first process")?;
        match channel.recv().context("hear the container's first process")? {
            Some((Report::Built, fds)) => {
                rlimits::set(Some(child.pid), &spec.rlimits)?;
                fds.into_iter().next().ok_or_else(|| Error::Init("the container's console is missing".into()))
            }
            Some((Report::Failed(message), _)) => Err(Error::Init(message)),
            None => Err(Error::Init("the container's first process died while it built its root".into())),
        }
    }

    /// Lets init run; returns when it does.
    pub(crate) fn run(&self) -> Result<()> {
        self.channel.send(&Go, &[]).context("speak to the container's first process")?;
        // The channel is closed by the execution of init.
        match self.channel.recv().context("hear the container's first process")? {
            None => Ok(()),
            Some((Report::Failed(message), _)) => Err(Error::Init(message)),
            Some((Report::Built, _)) => Err(Error::Init("the container's first process is confused".into())),
        }
    }

    /// The network namespace, for the daemon to put devices in.
    pub(crate) fn network(&self) -> Result<OwnedFd> {
        let path = format!("/proc/{}/ns/net", self.pid.as_raw_nonzero());
        Ok(std::fs::File::open(&path).with_context(|| format!("open {path}"))?.into())
    }
}

/// What the first process does until it is init.
fn child(spec: &ContainerSpec, templates: &Templates, cgroups: &Cgroups, boot_id: &str, channel: &Endpoint) -> i32 {
    let Err(error) = become_init(spec, templates, cgroups, boot_id, channel);
    // If the monitor is gone nobody is left to be told.
    let _ = channel.send(&Report::Failed(error.to_string()), &[]);
    1
}

fn become_init(
    spec: &ContainerSpec,
    templates: &Templates,
    cgroups: &Cgroups,
    boot_id: &str,
    channel: &Endpoint,
) -> Result<Infallible> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie init to the monitor")?;
    wait_for_go(channel)?;
    become_root()?;
    // Now that it is in its cgroup and has its ids.
    sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP).context("make the container's namespaces")?;
    // The change of ids has undone it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie init to the monitor")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if !templates.files.is_empty() {
        // While there is nothing else in the root than what is its own.
        templates.apply(mounts::root()?)?;
    }
    let master = inside::build(spec, cgroups.is_unified(), boot_id)?;
    rustix::system::sethostname(spec.hostname.as_bytes()).context("set the container's host name")?;
    sys::loopback_up().context("bring the container's loopback interface up")?;
    set_sysctls(spec)?;
    sys::new_session_keyring().context("make a session keyring")?;
    // By its name, for that is what init and tty(1) find it by.
    sys::ordinary_limits().context("set init's limits")?;
    let console = rustix::fs::open("/dev/console", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        .context("open the container's console")?;
    channel.send(&Report::Built, &[master.as_fd()]).context("hand over the console")?;
    drop(master);
    wait_for_go(channel)?;
    execute(spec, &console)
}

/// As the container's root, which may set those of its own namespaces only.
fn set_sysctls(spec: &ContainerSpec) -> Result<()> {
    for (name, value) in &spec.sysctls {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        std::fs::write(&path, value)
            .with_context(|| format!("set linux.sysctl.{name} to {value:?} in the container"))?;
    }
    Ok(())
}

fn wait_for_go(channel: &Endpoint) -> Result<()> {
    let go: Option<(Go, _)> = channel.recv().context("hear the monitor")?;
    go.map(drop).ok_or_else(|| Error::Init("the monitor is gone".into()))
}

/// Becomes the root of the calling process's user namespace.
pub(crate) fn become_root() -> Result<()> {
    rustix::thread::set_thread_groups(&[]).context("drop the host's groups")?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).context("become the container's root")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).context("become the container's root")
}

fn execute(spec: &ContainerSpec, console: &OwnedFd) -> Result<Infallible> {
    rustix::process::setsid().context("begin a session")?;
    rustix::process::ioctl_tiocsctty(console).context("take the console")?;
    for target in 0..3 {
        sys::install_fd(console.as_fd(), target).context("open the console")?;
    }
    sys::cloexec_from(3).context("close the host's descriptors")?;
    sys::unblock_signals().context("unblock signals")?;
    let mut command = Command::new(&spec.init[0]);
    command.args(&spec.init[1..]).env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("TERM", "linux");
    command.envs(&spec.env).env("container", "lxc");
    seccomp::apply().context("apply the system call filter")?;
    let error = command.exec();
    Err(Error::Init(format!(
        "container {} has no working init: cannot run {}: {error}; is its image complete and for this architecture?",
        spec.name, spec.init[0]
    )))
}
