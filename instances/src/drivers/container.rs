//! Containers: `berth-container monitor` holds each.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use berth_containers::spec::{ContainerSpec, Device, IdMap, Mount, Propagation};
use berth_guest::protocol::{ExecSpec, GuestState};
use berth_images::Progress;
use berth_supervisor::handshake::FdIndex;
use berth_supervisor::protocol::{Reply, Request};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};

use super::saved::Saved;
use super::supervised::{self, Conversation, Launch, Place, Standing};
use super::{Driver, ExecIo, ExecSession, FilesTarget, Provision};
use crate::blocking::blocking;
use crate::error::{Error, Result};
use crate::idmap::RANGE;
use crate::nics::Nics;
use crate::plan::Plan;
use crate::sys;
use crate::templates;

/// Directory of a container's volume that becomes its root.
const ROOTFS: &str = "rootfs";

/// Where a container asks about itself; a name that no device of a user can have.
const DEVLXD: &str = "/dev/lxd";
/// How long a change of a running container may take. Its own file systems may hold it up, as long as it likes.
const CHANGE_TIME: std::time::Duration = std::time::Duration::from_secs(30);

/// See the module's text.
pub(crate) struct ContainerDriver {
    program: PathBuf,
}

impl ContainerDriver {
    pub(crate) fn new(program: PathBuf) -> Self {
        Self { program }
    }
}

#[async_trait]
impl Driver for ContainerDriver {
    async fn provision(&self, volume: &Path, source: &Provision<'_>, progress: &Progress) -> Result<()> {
        match source.image {
            Some((project, fingerprint)) => {
                Ok(source.images.unpack_rootfs(project, fingerprint, volume, progress).await?)
            }
            None => {
                tokio::fs::create_dir(volume.join(ROOTFS)).await.map_err(Error::io("make an empty root file system"))
            }
        }
    }

    async fn start(&self, plan: &Plan, network: &mut Nics<'_>, saved: Option<&Saved>) -> Result<Launch> {
        if saved.is_some() {
            return Err(cannot_save());
        }
        load_modules(&plan.modules).await?;
        let place = Place { name: &plan.name, run_dir: &plan.places.run_dir, log_dir: &plan.places.log_dir };
        let templates = templates::file(&plan.templates)?;
        let spec = ContainerSpec { templates: templates.is_some().then_some(FdIndex(0)), ..spec(plan)? };
        let fds: Vec<_> = templates.iter().map(AsFd::as_fd).collect();
        let (launch, created) = Launch::begin(&self.program, "monitor", place, spec, &fds).await?;
        let netns = created.netns.ok_or_else(|| Error::Runtime("the monitor sent no network namespace".to_owned()))?;
        network.attach_container(&netns).await?;
        Ok(launch)
    }

    async fn save(&self, _run_dir: &Path, _volume: &Path, _saved: &Path) -> Result<Standing> {
        Err(cannot_save())
    }

    async fn exec(&self, run_dir: &Path, spec: ExecSpec) -> Result<ExecSession> {
        let terminal = spec.terminal.is_some();
        let (pipes, fds) =
            if terminal { (None, Vec::new()) } else { make_pipes().map(|(ours, theirs)| (Some(ours), theirs))? };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let conversation = Conversation::open(run_dir, &Request::Exec(spec), &borrowed).await?;
        drop(fds);
        let (reply, fds) = conversation.answer().await?;
        let io = match pipes {
            Some(pipes) => pipes,
            None => {
                let master = fds.into_iter().next().ok_or_else(|| supervised::out_of_turn(&reply))?;
                let (input, output) = super::pty::Master::split(master).map_err(Error::io("watch a terminal"))?;
                ExecIo::Terminal { input: Box::new(input), output: Box::new(output) }
            }
        };
        let (control, inputs) = mpsc::channel(16);
        let (done, exit) = oneshot::channel();
        tokio::spawn(async move { drop(done.send(follow(conversation, inputs).await)) });
        Ok(ExecSession { io, control, exit })
    }

    async fn files(&self, target: &FilesTarget<'_>) -> Result<UnixStream> {
        match target.run_dir {
            Some(run_dir) => {
                let conversation = Conversation::open(run_dir, &Request::Files, &[]).await?;
                let (reply, fds) = conversation.answer().await?;
                let fd = fds.into_iter().next().ok_or_else(|| supervised::out_of_turn(&reply))?;
                stream(std::os::unix::net::UnixStream::from(fd))
            }
            None => self.files_of_stopped(target),
        }
    }

    async fn guest_state(&self, run_dir: &Path) -> Result<Option<GuestState>> {
        match supervised::ask(run_dir, &Request::Stats).await? {
            Reply::Stats(state) => Ok(Some(state)),
            other => Err(supervised::out_of_turn(&other)),
        }
    }

    async fn settle(&self, _run_dir: &Path) {
        // Its files are the host's: whoever reads them sees what was written.
    }

    async fn shutdown(&self, run_dir: &Path) -> Result<()> {
        supervised::ask(run_dir, &Request::Shutdown).await.map(drop)
    }

    async fn change(&self, plan: &Plan) -> Result<()> {
        load_modules(&plan.modules).await?;
        let spec =
            serde_json::to_value(spec(plan)?).map_err(|e| Error::Runtime(format!("write a specification: {e}")))?;
        let request = Request::Change(spec);
        let change = supervised::ask(&plan.places.run_dir, &request);
        match tokio::time::timeout(CHANGE_TIME, change).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Error::Runtime(format!(
                "changing the devices of instance \"{}\" took too long and was given up; does a file system inside hang?",
                plan.name
            ))),
        }
    }

    async fn clean_up(&self, uuid: &str) -> Result<()> {
        let uuid = uuid.to_owned();
        blocking(move || {
            berth_containers::clean_up(&uuid)
                .map_err(|e| Error::Runtime(format!("cannot remove what the monitor left: {e}")))
        })
        .await
    }
}

fn cannot_save() -> Error {
    Error::Invalid(
        "the run state of a container cannot be saved; stop it without --stateful, or use a virtual machine".to_owned(),
    )
}

impl ContainerDriver {
    fn files_of_stopped(&self, target: &FilesTarget<'_>) -> Result<UnixStream> {
        const FILES_FD: i32 = 3;
        let idmap = target.idmap.as_ref().ok_or_else(|| Error::Runtime("the container has no id range".to_owned()))?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(Error::io("make a socket pair"))?;
        let mut command = Command::new(&self.program);
        command.arg("files").arg("--rootfs").arg(target.volume.join(ROOTFS));
        command.arg("--idmap").arg(format!("{}:{}", idmap.base, idmap.size));
        sys::hand_over(&mut command, theirs.into(), FILES_FD);
        let mut child = command.spawn().map_err(Error::io(format!("start {}", self.program.display())))?;
        tokio::spawn(async move { child.wait().await });
        stream(ours)
    }
}

fn stream(stream: std::os::unix::net::UnixStream) -> Result<UnixStream> {
    stream.set_nonblocking(true).map_err(Error::io("watch a socket"))?;
    UnixStream::from_std(stream).map_err(Error::io("watch a socket"))
}

/// Our ends of the three pipes, and the program's.
fn make_pipes() -> Result<(ExecIo, Vec<OwnedFd>)> {
    let make = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(std::io::Error::from);
    let build = || -> std::io::Result<_> {
        let ((stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr)) = (make()?, make()?, make()?);
        for fd in [&to_stdin, &from_stdout, &from_stderr] {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        let ours = ExecIo::Pipes {
            stdin: Box::new(pipe::Sender::from_owned_fd(to_stdin)?),
            stdout: Box::new(pipe::Receiver::from_owned_fd(from_stdout)?),
            stderr: Box::new(pipe::Receiver::from_owned_fd(from_stderr)?),
        };
        Ok((ours, vec![stdin, stdout, stderr]))
    };
    build().map_err(Error::io("make pipes"))
}

/// Passes inputs on until the program ends. When the caller's half is dropped the conversation ends, which kills
/// the program.
async fn follow(
    conversation: Conversation,
    mut inputs: mpsc::Receiver<berth_supervisor::protocol::Input>,
) -> Result<i32> {
    loop {
        tokio::select! {
            answer = conversation.answer() => return match answer?.0 {
                Reply::ExecExited { status } => Ok(status),
                other => Err(supervised::out_of_turn(&other)),
            },
            input = inputs.recv() => match input {
                // A failure shows as the end of the program, whose status may be under way.
                Some(input) => drop(conversation.input(&input).await),
                None => return Err(Error::Runtime("the program was killed: its client went away".to_owned())),
            },
        }
    }
}

/// Loads kernel modules into the host, those that are not there.
async fn load_modules(names: &[String]) -> Result<()> {
    for name in names {
        // Modules that are built in are there too; the kernel writes no hyphens.
        if Path::new("/sys/module").join(name.replace('-', "_")).exists() {
            continue;
        }
        let output = Command::new("modprobe").arg("--").arg(name).stdin(std::process::Stdio::null()).output().await;
        let output = output.map_err(Error::io(format!("run modprobe for the kernel module \"{name}\"")))?;
        if !output.status.success() {
            return Err(Error::Runtime(format!(
                "linux.kernel_modules: this host cannot load \"{name}\": {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
    }
    Ok(())
}

/// A directory of Berth's own in the container.
fn built_in(source: PathBuf, target: &str) -> Mount {
    Mount {
        source,
        target: target.to_owned(),
        readonly: true,
        recursive: false,
        propagation: Propagation::Private,
        shift: false,
        required: true,
    }
}

fn spec(plan: &Plan) -> Result<ContainerSpec> {
    let base = plan.idmap_base.ok_or_else(|| Error::Runtime(format!("instance \"{}\" has no id range", plan.name)))?;
    let mut devices = plan.devices.clone();
    let devlxd = plan.places.devlxd();
    if devlxd.is_dir() {
        devices.insert(DEVLXD.to_owned(), Device::Mount(built_in(devlxd, DEVLXD)));
    }
    let mut env = plan.env.clone();
    env.insert("container".to_owned(), "lxc".to_owned());
    Ok(ContainerSpec {
        uuid: plan.uuid.simple().to_string(),
        name: plan.name.clone(),
        hostname: plan.name.clone(),
        rootfs: plan.volume.join(ROOTFS),
        idmap: IdMap { base, size: RANGE },
        init: vec!["/sbin/init".to_owned()],
        env,
        limits: plan.limits.clone(),
        rlimits: plan.rlimits.clone(),
        devices,
        proxies: plan.proxies.clone(),
        sysctls: plan.sysctls.clone(),
        nesting: plan.nesting,
        console_log: plan.places.console_log(),
        templates: None,
    })
}
