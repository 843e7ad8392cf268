//! All instances of this host.
//!
//! Each instance has one owner, the task in [`actor`]; everybody else reads the [`Instance`] that it publishes and sends it
//! commands. What only talks to a running instance (exec, console, files, state) does not go through the owner.

mod actor;
mod backups;
mod change;
mod create;
mod export;
mod import;
mod launch;
mod lend;
mod live;
mod open;
mod origin;
mod profile_edits;
mod rebuild;
mod refresh;
mod remove;
mod rename;
mod restore;
mod scheduler;
mod shutdown;
mod snapshots;
mod stateful;
mod use_running;
mod volumes;
mod warm;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use berth_images::Images;
use berth_network::Networks;
use berth_storage::Pools;
use berth_store::Store;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use self::backups::ReservedBackup;
pub use self::lend::Loan;
use self::live::Then;
use self::origin::OriginWork;
use self::snapshots::Work;
pub use self::warm::Warm;
use crate::devlxd::Door;
use crate::drivers::{Drivers, Helpers};
use crate::error::{Error, Result};
use crate::model::{Instance, LifecycleEvent, StartFrom, StopRequest, Trouble, TroubleKind, Update};
use crate::names;
use crate::plan::Places;
use crate::profiles::Profiles;
use crate::projects::Projects;

/// What instances stand on.
pub struct Deps {
    /// State.
    pub store: Arc<dyn Store>,
    /// Storage pools.
    pub pools: Pools,
    /// Networks.
    pub networks: Networks,
    /// Images.
    pub images: Images,
    /// Data directory of the daemon.
    pub dir: PathBuf,
    /// Helper programs.
    pub helpers: Helpers,
    /// Is told what needs the administrator.
    pub troubles: broadcast::Sender<Trouble>,
    /// Is handed the sockets on which instances ask about themselves.
    pub doors: mpsc::UnboundedSender<Door>,
}

/// All instances of this host. Cheap to clone.
#[derive(Clone)]
pub struct Instances {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    pools: Pools,
    networks: Networks,
    images: Images,
    dir: PathBuf,
    drivers: Drivers,
    projects: Projects,
    profiles: Profiles,
    registry: Mutex<BTreeMap<(String, String), Handle>>,
    events: broadcast::Sender<LifecycleEvent>,
    troubles: broadcast::Sender<Trouble>,
    doors: mpsc::UnboundedSender<Door>,
    /// The host goes down: nothing is started any more.
    closing: CancellationToken,
    /// Tells the scheduler that something changed.
    changed: Notify,
    /// Lets one image at a time be made warm.
    warming: Semaphore,
}

/// How everybody else reaches an instance.
#[derive(Clone)]
struct Handle {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<Arc<Instance>>,
}

type Answer<T> = oneshot::Sender<Result<T>>;

/// What the owner of an instance is asked to do.
enum Command {
    Start(StartFrom, Answer<()>),
    Stop {
        request: StopRequest,
        then: Then,
        answer: Answer<()>,
    },
    Freeze(Answer<()>),
    Unfreeze(Answer<()>),
    Update {
        update: Box<Update>,
        revision: Option<u64>,
        answer: Answer<()>,
    },
    Rename {
        project: String,
        name: String,
        answer: Answer<()>,
    },
    Delete(Answer<()>),
    /// A profile changed: work the expanded configuration out again.
    Refresh(Answer<()>),
    /// Read or change what it keeps of its image.
    Origin(OriginWork),
    /// Something that takes its time.
    Work(Box<Work>),
}

impl Instances {
    /// All instances, or those of one project, by project and name.
    pub fn list(&self, project: Option<&str>) -> Vec<Arc<Instance>> {
        let registry = self.shared.registry();
        let wanted = registry.iter().filter(|((p, _), _)| project.is_none_or(|project| p == project));
        wanted.map(|(_, handle)| handle.view.borrow().clone()).collect()
    }

    /// One instance.
    pub fn get(&self, project: &str, name: &str) -> Result<Arc<Instance>> {
        Ok(self.handle(project, name)?.view.borrow().clone())
    }

    /// One instance, now and after each change.
    pub fn watch(&self, project: &str, name: &str) -> Result<watch::Receiver<Arc<Instance>>> {
        Ok(self.handle(project, name)?.view)
    }

    /// A made-up name that no instance of the project has now.
    pub fn free_name(&self, project: &str) -> String {
        names::invent(|name| self.shared.registry().contains_key(&(project.to_owned(), name.to_owned())))
    }

    /// Work on profiles that changes none; see also [`Instances::create_profile`] and its like.
    pub fn profiles(&self) -> &Profiles {
        &self.shared.profiles
    }

    /// Work on projects.
    pub fn projects(&self) -> &Projects {
        &self.shared.projects
    }

    /// What happens to instances from now on.
    pub fn events(&self) -> broadcast::Receiver<LifecycleEvent> {
        self.shared.events.subscribe()
    }

    /// Starts an instance; returns when it runs.
    pub async fn start(&self, project: &str, name: &str, from: StartFrom) -> Result<()> {
        self.command(project, name, |answer| Command::Start(from, answer)).await
    }

    /// Stops an instance; returns when it has stopped.
    pub async fn stop(&self, project: &str, name: &str, request: StopRequest) -> Result<()> {
        self.command(project, name, |answer| Command::Stop { request, then: Then::Rest, answer }).await
    }

    /// Stops an instance and starts it again; returns when it runs.
    pub async fn restart(&self, project: &str, name: &str, request: StopRequest) -> Result<()> {
        self.command(project, name, |answer| Command::Stop { request, then: Then::Restart, answer }).await
    }

    /// Pauses an instance.
    pub async fn freeze(&self, project: &str, name: &str) -> Result<()> {
        self.command(project, name, Command::Freeze).await
    }

    /// Lets a paused instance go on.
    pub async fn unfreeze(&self, project: &str, name: &str) -> Result<()> {
        self.command(project, name, Command::Unfreeze).await
    }

    /// Changes an instance. With `revision` only if it still has that one.
    pub async fn update(&self, project: &str, name: &str, update: Update, revision: Option<u64>) -> Result<()> {
        let update = Box::new(update);
        self.command(project, name, |answer| Command::Update { update, revision, answer }).await
    }

    /// Deletes a stopped instance.
    pub async fn delete(&self, project: &str, name: &str) -> Result<()> {
        self.command(project, name, Command::Delete).await
    }

    /// Waits until programs can be run in an instance: a container when it runs, a virtual machine when its agent
    /// is up. Fails if it stops before.
    pub async fn ready(&self, project: &str, name: &str) -> Result<()> {
        let mut view = self.watch(project, name)?;
        let ended = || Error::State(format!("instance \"{name}\" stopped before it was ready; its console tells why"));
        let instance =
            view.wait_for(|i| i.is_ready() || !(i.is_running() || i.status == crate::Status::Starting)).await;
        if instance.is_ok_and(|instance| instance.is_ready()) { Ok(()) } else { Err(ended()) }
    }

    fn handle(&self, project: &str, name: &str) -> Result<Handle> {
        let key = (project.to_owned(), name.to_owned());
        self.shared.registry().get(&key).cloned().ok_or_else(|| not_found(project, name))
    }

    async fn command(&self, project: &str, name: &str, command: impl FnOnce(Answer<()>) -> Command) -> Result<()> {
        let (answer, result) = oneshot::channel();
        let gone = || not_found(project, name);
        self.handle(project, name)?.commands.send(command(answer)).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

impl Shared {
    fn registry(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Handle>> {
        // The map is never left half-changed, so a panic elsewhere does not spoil it.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self, instance: uuid::Uuid) -> Places {
        Places::of(&self.dir, instance)
    }

    fn emit(&self, action: &'static str, project: &str, name: &str, context: &[(&str, &str)]) {
        let context = context.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        // Nobody may be listening.
        let _ =
            self.events.send(LifecycleEvent { action, project: project.to_owned(), name: name.to_owned(), context });
    }

    /// Tells the log and the administrator that something about an instance falls short.
    fn trouble(&self, kind: TroubleKind, project: &str, name: &str, message: String) {
        tracing::warn!(project, instance = name, "{message}");
        // Nobody may be listening.
        let _ = self.troubles.send(Trouble { kind, project: project.to_owned(), name: name.to_owned(), message });
    }
}

fn not_found(project: &str, name: &str) -> Error {
    Error::NotFound { what: "Instance", name: name.to_owned(), project: project.to_owned() }
}
