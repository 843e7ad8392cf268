//! Virtual machines: `berth-vmm run` holds each.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use berth_agent::initrd::{self, Module};
use berth_guest::client;
use berth_guest::protocol::{AGENT_PORT, ExecSpec, GuestState};
use berth_images::{BootFiles, Images, Progress, seed};
use berth_supervisor::handshake::FdIndex;
use berth_supervisor::protocol::{Input, Request};
use berth_vmm::settings::DiskSettings;
use berth_vmm::spec::{DiskSpec, NicSpec, OriginSpec, VmSpec};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::saved::{self, Saved};
use super::settings;
use super::supervised::{self, Launch, Place, Standing};
use super::{Driver, ExecIo, ExecSession, FilesTarget, Helpers, Provision};
use crate::blocking::blocking;
use crate::error::{Error, Result};
use crate::nics::{Nics, Tap};
use crate::plan::Plan;

/// A virtual machine's root disk in its volume.
pub(crate) const ROOT_DISK: &str = "root.img";
/// MTU of an interface that names none (Ethernet).
const DEFAULT_MTU: u32 = 1500;
/// How long the agent may take to pass a shutdown on.
const AGENT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// How long a guest may take to write out what it holds back.
const SYNC_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
/// The VMM's socket for connections to the guest's vsock ports, in the run directory.
const VSOCK_SOCKET: &str = "vsock/socket";

/// See the module's text.
pub(crate) struct VmDriver {
    program: PathBuf,
    agent: PathBuf,
    images: Images,
}

impl VmDriver {
    pub(crate) fn new(helpers: &Helpers, images: Images) -> Self {
        Self { program: helpers.vmm.clone(), agent: helpers.agent.clone(), images }
    }

    /// Makes the root disk as long as it is to be, if it is shorter. Space is taken when the guest writes.
    async fn grow(&self, plan: &Plan) -> Result<()> {
        let (disk, size) = (plan.volume.join(ROOT_DISK), plan.root_size);
        blocking(move || {
            let grow = || {
                let file = File::options().write(true).open(&disk)?;
                if file.metadata()?.len() < size {
                    file.set_len(size)?;
                    file.sync_all()?;
                }
                Ok(())
            };
            grow().map_err(Error::io(format!("grow the disk {} to {size} bytes", disk.display())))
        })
        .await
    }

    /// Tells the programs of this driver from others by the same names.
    pub(crate) async fn programs(&self) -> Result<String> {
        let describe = async |program: &Path| -> Result<String> {
            let found = tokio::fs::metadata(program).await;
            let found =
                found.map_err(Error::io(format!("look at {} (it belongs beside berthd)", program.display())))?;
            Ok(format!("{} {}.{:09}", found.len(), found.mtime(), found.mtime_nsec()))
        };
        Ok([describe(&self.program).await?, describe(&self.agent).await?].join(", "))
    }

    async fn agent(&self, run_dir: &Path) -> Result<UnixStream> {
        let not_up = || {
            Error::State(
                "the agent of the virtual machine is not up (yet); its console tells how far the guest came".to_owned(),
            )
        };
        if supervised::status(run_dir).await?.agent.is_none() {
            return Err(not_up());
        }
        match client::connect_vsock(&run_dir.join(VSOCK_SOCKET), AGENT_PORT).await {
            Ok(stream) => Ok(stream),
            Err(client::ClientError::NotListening { .. }) => Err(not_up()),
            Err(e) => Err(guest_error(e)),
        }
    }
}

#[async_trait]
impl Driver for VmDriver {
    async fn provision(&self, volume: &Path, source: &Provision<'_>, progress: &Progress) -> Result<()> {
        let disk = volume.join(ROOT_DISK);
        match source.image {
            Some((project, fingerprint)) => {
                Ok(source.images.create_disk(project, fingerprint, &disk, source.disk_size, progress).await?)
            }
            None => {
                let file = tokio::fs::File::create_new(&disk).await.map_err(Error::io("make an empty disk"))?;
                file.set_len(source.disk_size).await.map_err(Error::io("make an empty disk"))
            }
        }
    }

    async fn start(&self, plan: &Plan, network: &mut Nics<'_>, saved: Option<&Saved>) -> Result<Launch> {
        let disk = plan.volume.join(ROOT_DISK);
        let origin = match saved {
            Some(saved) => Origin::Saved(saved.clone()),
            None => {
                let files = self.images.boot_files(&disk, plan.base_image.as_deref()).await?;
                Origin::Boot { files, agent: self.agent.clone() }
            }
        };
        self.grow(plan).await?;
        let taps = network.attach_vm().await?;
        let (spec, fds) = {
            let plan = plan.clone();
            blocking(move || assemble(&plan, &disk, &origin, taps)).await?
        };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let place = Place { name: &plan.name, run_dir: &plan.places.run_dir, log_dir: &plan.places.log_dir };
        let (launch, _) = Launch::begin(&self.program, "run", place, spec, &borrowed).await?;
        Ok(launch)
    }

    async fn save(&self, run_dir: &Path, volume: &Path, saved: &Path) -> Result<Standing> {
        let (volume, saved) = (volume.to_owned(), saved.to_owned());
        let (files, saved) = blocking(move || Ok((saved::create(&saved)?, saved))).await?;
        let standing = Standing::save(run_dir, &files.each_ref().map(AsFd::as_fd)).await?;
        // What the guest wrote to its disk belongs to the state, and the state may refer to it for ever.
        blocking(move || saved::sync(files, &saved, &volume.join(ROOT_DISK))).await?;
        Ok(standing)
    }

    async fn exec(&self, run_dir: &Path, spec: ExecSpec) -> Result<ExecSession> {
        let terminal = spec.terminal.is_some();
        let stream = self.agent(run_dir).await?;
        let program = client::exec(stream, spec).await.map_err(guest_error)?;
        let io = if terminal {
            ExecIo::Terminal { input: Box::new(program.stdin), output: Box::new(program.stdout) }
        } else {
            ExecIo::Pipes {
                stdin: Box::new(program.stdin),
                stdout: Box::new(program.stdout),
                stderr: Box::new(program.stderr),
            }
        };
        let (control, mut inputs) = mpsc::channel::<Input>(16);
        let (done, exit) = oneshot::channel();
        let (to_guest, mut exited) = (program.control, program.exit);
        tokio::spawn(async move {
            let status = loop {
                tokio::select! {
                    status = &mut exited => break status.map_err(guest_error),
                    input = inputs.recv() => {
                        use berth_guest::protocol::ExecControl;
                        let message = match input {
                            Some(Input::Resize(size)) => ExecControl::Resize(size),
                            Some(Input::Signal(signal)) => ExecControl::Signal(signal),
                            None => break Err(Error::Runtime("the program was killed: its client went away".to_owned())),
                        };
                        // A failure shows as the end of the program.
                        let _ = to_guest.send(message).await;
                    }
                }
            };
            drop(done.send(status));
        });
        Ok(ExecSession { io, control, exit })
    }

    async fn files(&self, target: &FilesTarget<'_>) -> Result<UnixStream> {
        match target.run_dir {
            Some(run_dir) => self.agent(run_dir).await,
            None => Err(Error::State(format!(
                "files of the virtual machine \"{}\" can be reached while it runs only; start it first",
                target.name
            ))),
        }
    }

    async fn guest_state(&self, run_dir: &Path) -> Result<Option<GuestState>> {
        match self.agent(run_dir).await {
            Ok(stream) => Ok(Some(client::state(stream).await.map_err(guest_error)?)),
            Err(Error::State(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn settle(&self, run_dir: &Path) {
        let spec = ExecSpec {
            command: vec!["sync".to_owned()],
            env: std::iter::once(("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())).collect(),
            cwd: None,
            uid: 0,
            gid: 0,
            terminal: None,
        };
        let sync = async { self.exec(run_dir, spec).await.ok()?.exit.await.ok()?.ok() };
        // A guest that cannot is copied as it would be after a power failure, which its file systems survive.
        if !matches!(tokio::time::timeout(SYNC_PATIENCE, sync).await, Ok(Some(0))) {
            tracing::debug!(run_dir = %run_dir.display(), "the guest did not write out what it holds back");
        }
    }

    async fn shutdown(&self, run_dir: &Path) -> Result<()> {
        // The agent can tell the guest's init; a guest without one, or whose agent hangs, gets the power button.
        let by_agent = async {
            let stream = self.agent(run_dir).await.ok()?;
            client::simple(stream, berth_guest::protocol::Request::Shutdown).await.ok()
        };
        if let Ok(Some(_)) = tokio::time::timeout(AGENT_PATIENCE, by_agent).await {
            return Ok(());
        }
        supervised::ask(run_dir, &Request::Shutdown).await.map(drop)
    }

    async fn change(&self, plan: &Plan) -> Result<()> {
        // All else that may be changed takes effect at the next start.
        self.grow(plan).await?;
        let change = serde_json::to_value(settings::change(plan));
        let change = change.map_err(|e| Error::Runtime(format!("cannot write the change: {e}")))?;
        supervised::ask(&plan.places.run_dir, &Request::Change(change)).await.map(drop)
    }

    async fn clean_up(&self, _uuid: &str) -> Result<()> {
        // A VMM that was killed leaves nothing but its run directory: taps and memory go with its two processes.
        Ok(())
    }
}

fn guest_error(e: client::ClientError) -> Error {
    use berth_guest::protocol::ErrorKind;
    match e {
        client::ClientError::Guest(e) if e.kind == ErrorKind::NotFound => {
            Error::Exec { status: 127, message: e.message }
        }
        client::ClientError::Guest(e) if e.kind == ErrorKind::PermissionDenied => {
            Error::Exec { status: 126, message: e.message }
        }
        client::ClientError::Guest(e) => Error::Guest(e),
        other => Error::Runtime(format!("the virtual machine's agent does not answer: {other}")),
    }
}

/// What a machine begins with.
enum Origin {
    /// What is in its disk, and the agent.
    Boot { files: BootFiles, agent: PathBuf },
    /// A saved state.
    Saved(Saved),
}

/// Opens everything the machine needs and names it in a specification.
fn assemble(plan: &Plan, disk: &Path, origin: &Origin, taps: Vec<Tap>) -> Result<(VmSpec, Vec<OwnedFd>)> {
    let mut fds = Vec::new();
    let mut add = |fd: OwnedFd| {
        fds.push(fd);
        FdIndex(fds.len() as u32 - 1)
    };
    let origin = match origin {
        Origin::Saved(saved) => {
            let [state, ram] = saved::open(&saved.directory)?;
            OriginSpec::Saved { state: add(state), ram: add(ram), heir: saved.heir }
        }
        Origin::Boot { files, agent } => {
            let kernel = add(open(&files.kernel)?);
            let mut initrds = Vec::new();
            if let Some(initrd) = &files.initrd {
                initrds.push(add(open(initrd)?));
            }
            initrds.push(add(agent_initrd(agent, &files.modules)?));
            OriginSpec::Boot { kernel, initrds, cmdline: command_line(plan, files) }
        }
    };
    let root = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(disk)
        .map_err(Error::io(format!("open the disk {}", disk.display())))?;
    let (id, root_settings) = (settings::ROOT.to_owned(), settings::root(plan));
    let mut disks = vec![DiskSpec { file: add(root.into()), readonly: false, id, settings: root_settings }];
    if let Some(files) = &plan.cloud_init {
        let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        let content = seed::disk(&files).map_err(Error::io("make the disk for cloud-init"))?;
        let (file, id) = (add(in_memory("cloud-init", &content)?), "cidata".to_owned());
        disks.push(DiskSpec { file, readonly: true, id, settings: DiskSettings::default() });
    }
    let nics = taps
        .into_iter()
        .map(|tap| NicSpec {
            tap: add(tap.fd),
            hwaddr: tap.hwaddr,
            mtu: u16::try_from(tap.mtu.unwrap_or(DEFAULT_MTU)).unwrap_or(u16::MAX),
            settings: settings::nic(plan, &tap.device),
            id: tap.device,
        })
        .collect();
    let spec = VmSpec {
        uuid: plan.uuid.simple().to_string(),
        name: plan.name.clone(),
        user: plan.idmap_base.ok_or_else(no_ids)?,
        vcpus: plan.vcpus().map_err(Error::Invalid)?,
        memory: plan.vm_memory(),
        origin,
        disks,
        nics,
        vsock_cid: plan.vsock_cid,
        console_log: plan.places.console_log(),
    };
    Ok((spec, fds))
}

fn no_ids() -> Error {
    Error::Runtime(
        "the virtual machine has no user id of its own (volatile.idmap.base); make it anew from its image".into(),
    )
}

fn command_line(plan: &Plan, boot: &BootFiles) -> String {
    // loglevel=6: what a healthy kernel tells at boot is in its own log; printed on the serial console, each byte of it is
    // an exit to the VMM, which takes longer than all the rest. Warnings and panics are printed. First, because an image
    // may want it otherwise.
    let mut words = vec![boot.root.clone(), "loglevel=6".to_owned()];
    words.extend(boot.kernel_args.iter().cloned());
    words.extend(
        // panic=-1: a guest that panics ends at once, so that its supervisor can tell.
        ["rw", "console=ttyS0", "panic=-1", "net.ifnames=0", initrd::RDINIT].map(str::to_owned),
    );
    if let Some(name) = &plan.hostname {
        words.push(format!("{}={name}", initrd::HOSTNAME_KEY));
        words.push(format!("systemd.hostname={name}"));
    }
    words.join(" ")
}

fn open(path: &Path) -> Result<OwnedFd> {
    Ok(File::open(path).map_err(Error::io(format!("open {}", path.display())))?.into())
}

/// The archive that brings the agent and the modules it needs into the guest's initrd, in memory.
fn agent_initrd(agent: &Path, modules: &[PathBuf]) -> Result<OwnedFd> {
    let read = |path: &Path| std::fs::read(path).map_err(Error::io(format!("read {}", path.display())));
    let program = read(agent)?;
    let modules = modules
        .iter()
        .map(|path| {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            Ok(Module { name, content: read(path)? })
        })
        .collect::<Result<Vec<_>>>()?;
    let archive = initrd::build(&program, &modules);
    in_memory("agent-initrd", &archive)
}

/// A file that has no path.
fn in_memory(name: &str, content: &[u8]) -> Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|e| Error::io("make a file in memory")(e.into()))?;
    let mut file = File::from(memory);
    file.write_all(content).and_then(|()| file.rewind()).map_err(Error::io("write a file in memory"))?;
    Ok(file.into())
}
