//! The two kinds of instance behind one contract.

pub(crate) mod container;
pub(crate) mod pty;
pub(crate) mod saved;
mod settings;
pub(crate) mod supervised;
pub(crate) mod vm;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use berth_guest::protocol::{ExecSpec, GuestState, WindowSize};
use berth_images::Progress;
use berth_supervisor::protocol::Input;
use berth_supervisor::record::Identity;
use berth_supervisor::transport::AsyncEndpoint;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use self::saved::Saved;
pub(crate) use self::supervised::{Launch, Standing};
use crate::error::Result;
use crate::plan::Plan;

/// Where the helper programs lie.
#[derive(Debug, Clone)]
pub struct Helpers {
    /// `berth-container`.
    pub container: PathBuf,
    /// `berth-vmm`.
    pub vmm: PathBuf,
    /// `berth-agent`, statically linked.
    pub agent: PathBuf,
}

/// A readable end.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// A writable end.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Input and output of a program in a guest.
pub enum ExecIo {
    /// One pseudo terminal.
    Terminal {
        /// What is typed.
        input: Writer,
        /// What is shown.
        output: Reader,
    },
    /// Three pipes.
    Pipes {
        /// Standard input; dropping it is end of file.
        stdin: Writer,
        /// Standard output.
        stdout: Reader,
        /// Standard error.
        stderr: Reader,
    },
}

/// A program that runs in a guest. Dropping `control` kills it.
pub struct ExecSession {
    /// Its input and output.
    pub io: ExecIo,
    /// Window sizes and signals.
    pub control: mpsc::Sender<Input>,
    /// Its exit status (128 + signal), once it ended.
    pub exit: oneshot::Receiver<Result<i32>>,
}

/// An attached console. Dropping it detaches.
pub struct ConsoleSession {
    /// The console both ways, beginning with its recent output.
    pub stream: UnixStream,
    /// New sizes of the client's window.
    pub resize: mpsc::Sender<WindowSize>,
}

/// What a start gives to the owner of the instance.
pub(crate) struct Started {
    /// The supervisor.
    pub identity: Identity,
    /// Events of the supervisor; its first message (the status) has been read.
    pub events: AsyncEndpoint,
    /// That status.
    pub status: berth_supervisor::protocol::Status,
}

/// A kind of instance. Implementations keep no state of their own: all that lasts is in the run directory, so a
/// new daemon continues where the old one ended.
///
/// The owner of the instance (one task) calls `provision` once, then `start` only while no supervisor lives, `change` only
/// while one does, and `clean_up` after it ended. The other calls may come at any time from any task while it runs.
#[async_trait]
pub(crate) trait Driver: Send + Sync {
    /// Fills the empty directory `volume` of a new instance from the plan's image.
    async fn provision(&self, volume: &Path, source: &Provision<'_>, progress: &Progress) -> Result<()>;

    /// Makes everything up to where the guest's first instruction would run, which [`Launch::proceed`] lets it. With
    /// `saved`, of which [`save`](Self::save) filled the directory, the guest goes on from there. On an error nothing is left
    /// behind, except network links, which the caller made ready in `network` and takes away.
    async fn start(&self, plan: &Plan, network: &mut crate::nics::Nics<'_>, saved: Option<&Saved>) -> Result<Launch>;

    /// Saves the running instance into the new directory `saved`, synced. The instance stands still until the answer is
    /// dropped, and then goes on; or ends, if that is asked of it.
    async fn save(&self, run_dir: &Path, volume: &Path, saved: &Path) -> Result<Standing>;

    /// Runs a program.
    async fn exec(&self, run_dir: &Path, spec: ExecSpec) -> Result<ExecSession>;

    /// A connection on which one file request is served. `running` tells whether the instance runs.
    async fn files(&self, target: &FilesTarget<'_>) -> Result<UnixStream>;

    /// What the guest tells of itself; `None` if it cannot tell now.
    async fn guest_state(&self, run_dir: &Path) -> Result<Option<GuestState>>;

    /// Lets a guest that runs write out what it holds back, as far as it can be asked. Called before it is paused for a copy
    /// of its volume.
    async fn settle(&self, run_dir: &Path);

    /// Asks the guest for a clean shutdown.
    async fn shutdown(&self, run_dir: &Path) -> Result<()>;

    /// Brings a running instance to `plan`, as far as its kind can while it runs: all of that or, on an error, nothing.
    async fn change(&self, plan: &Plan) -> Result<()>;

    /// Removes what a supervisor that was killed could not remove itself. Harmless if there is nothing.
    async fn clean_up(&self, uuid: &str) -> Result<()>;
}

/// Where a new volume's content comes from.
pub(crate) struct Provision<'a> {
    /// Image store.
    pub images: &'a berth_images::Images,
    /// Project and fingerprint of the image; `None` makes an empty volume.
    pub image: Option<(&'a str, &'a str)>,
    /// Size of a virtual machine's disk in bytes.
    pub disk_size: u64,
}

/// Whose files.
pub(crate) struct FilesTarget<'a> {
    /// Run directory, if the instance runs.
    pub run_dir: Option<&'a Path>,
    /// Its volume.
    pub volume: &'a Path,
    /// Base of its uid range, for containers.
    pub idmap: Option<berth_containers::spec::IdMap>,
    /// For messages.
    pub name: &'a str,
}

/// The driver of each kind.
#[derive(Clone)]
pub(crate) struct Drivers {
    container: Arc<container::ContainerDriver>,
    vm: Arc<vm::VmDriver>,
}

impl Drivers {
    pub(crate) fn new(helpers: &Helpers, images: berth_images::Images) -> Self {
        Self {
            container: Arc::new(container::ContainerDriver::new(helpers.container.clone())),
            vm: Arc::new(vm::VmDriver::new(helpers, images)),
        }
    }

    /// By which programs virtual machines are made, for what has to be made anew with others.
    pub(crate) async fn machine_programs(&self) -> Result<String> {
        self.vm.programs().await
    }

    pub(crate) fn of(&self, kind: crate::model::Kind) -> &dyn Driver {
        match kind {
            crate::model::Kind::Container => &*self.container,
            crate::model::Kind::VirtualMachine => &*self.vm,
        }
    }
}
