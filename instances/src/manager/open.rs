//! The daemon's start: finding running instances again, and ending what its predecessor left half done.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_store::doc;
use berth_supervisor::record::{self, Identity};
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::actor::{Actor, Next};
use super::launch::Power;
use super::live::{Live, Stopping, Then, last_words, wait_gone};
use super::remove::remove_tree;
use super::{Deps, Handle, Instances, Shared};
use crate::documents::{InstanceDoc, Phase, VolatileDoc, instance_key, instances_key, volatile_key};
use crate::drivers::{Drivers, Started, supervised};
use crate::error::{Error, Result};
use crate::model::{Kind, StartFrom, Status, TroubleKind};
use crate::profiles::Profiles;
use crate::projects::Projects;
use crate::values::parse_bool;

/// Events kept for a listener that is slow.
const EVENT_BACKLOG: usize = 1024;
/// Commands that may wait for the owner of an instance.
const COMMAND_BACKLOG: usize = 64;
/// How long a supervisor may take to undo what it made.
const PARTING: Duration = Duration::from_secs(10);
/// The pool that the default profile uses.
const DEFAULT_POOL: &str = "default";

impl Instances {
    /// Opens all instances: makes the default project and profile at first start, adopts what runs, removes what
    /// was half made, goes on with what was half deleted, and starts what should run.
    pub async fn open(deps: Deps) -> Result<Self> {
        let Deps { store, pools, networks, images, dir, helpers, troubles, doors } = deps;
        let projects = Projects::open(store.clone(), images.clone(), networks.clone()).await?;
        let network = networks.default_network();
        let profiles = Profiles::open(store.clone(), projects.clone(), DEFAULT_POOL, network.as_deref()).await?;
        let drivers = Drivers::new(&helpers, images.clone());
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let registry = Mutex::new(BTreeMap::new());
        let shared = Arc::new(Shared {
            store,
            pools,
            networks,
            images,
            dir,
            drivers,
            projects,
            profiles,
            registry,
            events,
            troubles,
            doors,
            closing: CancellationToken::new(),
            changed: Notify::new(),
            warming: Semaphore::new(1),
        });
        let known = doc::list::<InstanceDoc>(&*shared.store, &instances_key()).await?;
        let uuids: HashSet<String> = known.iter().map(|(_, i)| i.doc.uuid.simple().to_string()).collect();
        shared.end_strays(&uuids).await?;
        let mut interrupted = HashSet::new();
        for (key, instance) in known {
            let [_, project, name] = &key.segments()[..] else { continue };
            match instance.doc.phase {
                Phase::Ready => {
                    if shared.clone().own(project.clone(), name.clone()).await? == Found::Interrupted {
                        interrupted.insert(instance.doc.uuid);
                    }
                }
                Phase::Creating | Phase::Deleting => {
                    tracing::info!(instance = %name, "removing what was left half made or half deleted");
                    shared.remove(project, name, &instance.doc).await?;
                }
            }
        }
        let instances = Self { shared };
        instances.clear_waste().await?;
        instances.clear_backups().await?;
        instances.clear_cold().await?;
        tokio::spawn(instances.clone().keep_schedules());
        instances.autostart(&interrupted);
        Ok(instances)
    }

    /// Starts, in the background and in order of priority, what is configured to run and does not.
    fn autostart(&self, interrupted: &HashSet<uuid::Uuid>) {
        let mut wanted: Vec<_> = self
            .list(None)
            .into_iter()
            .filter(|i| i.status == Status::Stopped)
            .filter(|i| match i.expanded_config.get("boot.autostart") {
                Some(value) => parse_bool(value) == Ok(true),
                None => interrupted.contains(&i.uuid),
            })
            .collect();
        let priority = |i: &crate::Instance| -> i64 {
            i.expanded_config.get("boot.autostart.priority").and_then(|p| p.parse().ok()).unwrap_or(0)
        };
        wanted.sort_by_key(|i| std::cmp::Reverse(priority(i)));
        let instances = self.clone();
        tokio::spawn(async move {
            let closing = &instances.shared.closing;
            for instance in wanted {
                if closing.is_cancelled() {
                    return;
                }
                let delay = instance.expanded_config.get("boot.autostart.delay").and_then(|d| d.parse().ok());
                let from = if instance.stateful { StartFrom::Saved } else { StartFrom::Boot };
                if let Err(e) = instances.start(&instance.project, &instance.name, from).await {
                    let message = format!("it could not be started with the daemon: {e}");
                    instances.shared.trouble(TroubleKind::Autostart, &instance.project, &instance.name, message);
                }
                let pause = Duration::from_secs(delay.unwrap_or(0));
                // The end of the host need not wait for it.
                let _ = tokio::time::timeout(pause, closing.cancelled()).await;
            }
        });
    }
}

/// The supervisor of a run directory. One that was never given leave to let its instance run, or that just ends, is waited for:
/// what it undoes must not be what another run has by then.
async fn find_supervisor(run_dir: &Path) -> Result<Option<Started>> {
    if let Some(started) = supervised::adopt(run_dir).await? {
        return Ok(Some(started));
    }
    let identity = Identity::load(run_dir).map_err(Error::io(format!("read {}", run_dir.display())))?;
    let Some(identity) = identity else { return Ok(None) };
    if let Ok(gone) = tokio::time::timeout(PARTING, wait_gone(&identity)).await {
        return gone.map(|()| None);
    }
    // Given leave just before the daemon was killed, it may have come into reach only now.
    if let Some(started) = supervised::adopt(run_dir).await? {
        return Ok(Some(started));
    }
    identity.kill().map_err(Error::io(format!("end the stray supervisor {}", identity.pid)))?;
    wait_gone(&identity).await?;
    Ok(None)
}

/// How an instance was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It runs, or had ended in order.
    AsLeft,
    /// It ran when the host went down, or its supervisor was killed.
    Interrupted,
    /// It was ephemeral, had ended, and has been deleted.
    Gone,
}

impl Shared {
    /// Makes the owner of an instance, which adopts its supervisor if that lives.
    pub(super) async fn own(self: Arc<Self>, project: String, name: String) -> Result<Found> {
        let gone = || super::not_found(&project, &name);
        let instance = doc::get::<InstanceDoc>(&*self.store, &instance_key(&project, &name)).await?.ok_or_else(gone)?;
        let volatile = doc::get::<VolatileDoc>(&*self.store, &volatile_key(instance.doc.uuid)).await?;
        let places = self.places(instance.doc.uuid);
        let live = find_supervisor(&places.run_dir).await?;
        let (sender, commands) = mpsc::channel(COMMAND_BACKLOG);
        let snapshots = self.snapshots(instance.doc.uuid).await?;
        let placeholder = watch::channel(Arc::new(placeholder(&project, &name, &instance.doc)));
        let mut actor = Actor {
            shared: self.clone(),
            project: project.clone(),
            name: name.clone(),
            document: instance.doc,
            revision: instance.mod_rev,
            volatile: volatile.map(|v| v.doc).unwrap_or_default(),
            snapshots,
            view: placeholder.0,
            commands,
            live: None,
            starting: false,
            readers: Vec::new(),
        };
        actor.publish().await?;
        if let Some(started) = live {
            let door = if places.devlxd().exists() { Some(actor.open_door()?) } else { None };
            actor.live = Some(Live::new(started, door));
            // Whoever asked for its end has gone with the daemon.
            actor.intend(Then::Rest).await?;
            actor.connect().await;
            actor.show();
        }
        let mut found = Found::AsLeft;
        if actor.live.is_none() {
            let ran = actor.last_power() == Power::Running;
            if places.run_dir.exists() {
                found = actor.recover(&places.run_dir, ran).await?;
            } else if ran {
                found = actor.come_back().await?;
            }
        }
        if found == Found::Gone {
            return Ok(found);
        }
        let handle = Handle { commands: sender, view: placeholder.1 };
        self.registry().insert((project, name), handle);
        tokio::spawn(actor.run());
        Ok(found)
    }

    /// Ends supervisors of instances that no document speaks of.
    async fn end_strays(&self, known: &HashSet<String>) -> Result<()> {
        let run = self.dir.join("run");
        let mut entries = match tokio::fs::read_dir(&run).await {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(format!("read {}", run.display()))(e)),
        };
        while let Some(entry) = entries.next_entry().await.map_err(Error::io(format!("read {}", run.display())))? {
            let uuid = entry.file_name().to_string_lossy().into_owned();
            if known.contains(&uuid) {
                continue;
            }
            let run_dir = entry.path();
            if let Ok(Some(identity)) = Identity::load(&run_dir) {
                identity.kill().map_err(Error::io(format!("end the stray supervisor {}", identity.pid)))?;
                wait_gone(&identity).await?;
            }
            self.drivers.of(Kind::Container).clean_up(&uuid).await?;
            remove_tree(&run_dir).await?;
        }
        Ok(())
    }
}

impl Actor {
    /// Deals with a run that ended while no daemon was there.
    async fn recover(&mut self, run_dir: &Path, ran: bool) -> Result<Found> {
        let told = record::load_exit(run_dir).is_ok_and(|exit| exit.is_some());
        let exit = last_words(run_dir)?;
        let then = match self.volatile.then {
            // Remembered, for this daemon may end before it runs again.
            Then::Rest if ran && !told && self.may_come_back() => Then::ComeBack,
            then => then,
        };
        // One that ended by itself may want to be started again by itself.
        let asked = (then != Then::Rest).then(|| Stopping { deadline: None, then, answers: Vec::new() });
        if self.ended(exit, asked).await == Next::Gone {
            return Ok(Found::Gone);
        }
        Ok(if then == Then::ComeBack { Found::Interrupted } else { Found::AsLeft })
    }
}

impl Actor {
    /// Deals with a run that was ended because the host went down, or to be followed by another one.
    async fn come_back(&mut self) -> Result<Found> {
        if self.volatile.then == Then::Restart {
            if let Err(e) = self.start(StartFrom::Boot).await {
                self.leftover(format!("it could not be started again: {e}"));
            }
            return Ok(Found::AsLeft);
        }
        if !self.may_come_back() {
            self.remember_power(Power::Stopped);
            self.volatile.then = Then::Rest;
            self.save_volatile().await?;
            self.show();
            return Ok(Found::AsLeft);
        }
        // What is remembered stays until it has been tried, for this daemon may end before.
        Ok(Found::Interrupted)
    }

    /// Whether it may be started because it ran.
    fn may_come_back(&self) -> bool {
        let autostart = self.view.borrow().expanded_config.get("boot.autostart").cloned();
        autostart.is_none_or(|value| parse_bool(&value) != Ok(false))
    }
}

pub(super) fn placeholder(project: &str, name: &str, document: &InstanceDoc) -> crate::Instance {
    crate::Instance {
        project: project.to_owned(),
        name: name.to_owned(),
        uuid: document.uuid,
        kind: document.kind,
        architecture: document.architecture.clone(),
        description: document.description.clone(),
        config: document.config.clone(),
        devices: document.devices.clone(),
        profiles: document.profiles.clone(),
        ephemeral: document.ephemeral,
        stateful: false,
        created_at: document.created_at,
        last_used_at: None,
        pool: document.pool.clone(),
        volume: document.volume.simple().to_string(),
        snapshots: Arc::default(),
        expanded_config: crate::Config::new(),
        expanded_devices: crate::Devices::new(),
        volatile: crate::Config::new(),
        revision: 0,
        status: Status::Stopped,
        pid: None,
        agent: None,
    }
}
