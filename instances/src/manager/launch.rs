//! Starting an instance, and clearing away what belonged to one run of it.

use std::sync::Arc;

use berth_containers::templates::Templates;
use berth_images::Origin;
use berth_store::{ErrorKind, step};
use jiff::Timestamp;
use tokio_util::sync::DropGuard;

use super::actor::Actor;
use super::live::{Live, Then};
use super::remove::remove_tree;
use crate::blocking::blocking;
use crate::cloud_init;
use crate::devlxd;
use crate::documents::Kept;
use crate::drivers::saved::{Heir, Saved};
use crate::error::{Error, Result};
use crate::model::{Instance, Kind, StartFrom, Status};
use crate::nics::{self, Nics, host_name_key};
use crate::plan::{Places, Plan};
use crate::templates;

/// What the next start of the daemon is to think of an instance that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    /// It is to run.
    Running,
    /// It has its rest.
    Stopped,
}

/// Where that is remembered, in LXD's words.
const POWER: &str = "volatile.last_state.power";

impl Actor {
    pub(super) async fn start(&mut self, from: StartFrom) -> Result<()> {
        if self.status() == Status::Frozen {
            return self.pause(false).await;
        }
        if self.live.is_some() {
            return Err(Error::State(format!("The instance is already running: \"{}\"", self.name)));
        }
        if self.shared.closing.is_cancelled() {
            return Err(Error::State(format!("instance \"{}\" is not started: the host is going down", self.name)));
        }
        self.starting = true;
        self.show();
        let result = self.launch(from).await;
        self.starting = false;
        match result {
            Ok(live) => {
                self.live = Some(live);
                self.show();
                self.emit("instance-started");
                Ok(())
            }
            Err(e) => {
                self.remember_error(Some(e.to_string()));
                self.volatile.then = Then::Rest;
                if let Err(again) = self.clear_away(Power::Stopped).await {
                    self.leftover(format!("what a failed start left could not be cleared away: {again}"));
                }
                self.show();
                Err(e)
            }
        }
    }

    async fn launch(&mut self, from: StartFrom) -> Result<Live> {
        self.publish().await?;
        let addresses = nics::invent_addresses(&self.view.borrow())?;
        self.volatile.values.extend(addresses);
        let config = self.view.borrow().expanded_config.clone();
        cloud_init::renew(&mut self.volatile.values, self.document.uuid, &self.name, &config);
        self.remember_power(Power::Running);
        self.remember_error(None);
        self.volatile.last_used_at = Some(Timestamp::now());
        self.save_volatile().await?;
        self.show();
        let instance = self.view.borrow().clone();
        // Its volume may be another one than that which was limited before.
        self.shared.limit_volume(&self.document, &instance.expanded_devices).await?;
        make_directories(&self.places()).await?;
        step::done("run directory made");
        let door = self.make_door(&instance).await?;
        let mut plan = self.plan(&instance).await?;
        plan.templates = due_templates(&instance, &plan).await?;
        let saved = self.saved(from, &plan.volume).await?;
        let shared = self.shared.clone();
        let mut network = match &saved {
            // It has the addresses of another one until its agent is ready.
            Some(Saved { heir: Heir::Another, .. }) => Nics::unconnected(&shared.networks, &instance)?,
            _ => Nics::wanted(&shared.networks, &instance)?,
        };
        let made = self.driver().start(&plan, &mut network, saved.as_ref()).await;
        for (device, host_name) in network.host_names() {
            self.volatile.values.insert(host_name_key(device), host_name.clone());
        }
        let launch = made.map_err(|error| self.explain(error))?;
        // One record: from here on the guest goes on, and what was saved is over.
        self.volatile.kept = Kept::Nothing;
        self.volatile.values.remove(templates::PENDING);
        self.save_volatile().await?;
        let started = launch.proceed(&plan.places.run_dir).await?;
        // What was to follow the last run has come.
        self.intend_or_warn(Then::Rest).await;
        if let Some(saved) = saved {
            self.forget(saved.directory).await;
        }
        Ok(Live::new(started, door))
    }

    /// To be saved with the other volatile values.
    pub(super) fn remember_power(&mut self, power: Power) {
        let word = match power {
            Power::Running => "RUNNING",
            Power::Stopped => "STOPPED",
        };
        self.volatile.values.insert(POWER.to_owned(), word.to_owned());
    }

    /// What was remembered last.
    pub(super) fn last_power(&self) -> Power {
        let running = self.volatile.values.get(POWER).is_some_and(|power| power == "RUNNING");
        if running { Power::Running } else { Power::Stopped }
    }

    /// Puts a virtual machine whose agent is ready on its networks, if it is not there yet.
    pub(super) async fn connect(&self) {
        let ready = self.live.as_ref().is_some_and(|live| live.agent.is_some());
        if !ready || self.document.kind != Kind::VirtualMachine {
            return;
        }
        let connected = async {
            let view = self.view.borrow().clone();
            let instance = self.snapshot(view.expanded_config.clone(), view.expanded_devices.clone());
            nics::connect(&self.shared.networks, &instance).await
        };
        if let Err(e) = connected.await {
            self.leftover(format!("it has no network: {e}; stop and start it"));
        }
    }

    /// Makes the place where the instance asks about itself, if it is to have one.
    async fn make_door(&self, instance: &Instance) -> Result<Option<DropGuard>> {
        if !devlxd::wanted(instance.kind, &instance.expanded_config) {
            return Ok(None);
        }
        let place = self.places().devlxd();
        let mut builder = tokio::fs::DirBuilder::new();
        // Its programs of all users look for the socket in it.
        builder.mode(0o755);
        builder.create(&place).await.map_err(Error::io(format!("make the directory {}", place.display())))?;
        self.open_door().map(Some)
    }

    pub(super) fn open_door(&self) -> Result<DropGuard> {
        devlxd::open(&self.places().devlxd(), &self.view.borrow(), &self.shared.doors)
    }

    /// What `instance`, which is this one at some moment, means on this host.
    pub(super) async fn plan(&self, instance: &Instance) -> Result<Plan> {
        let volume = self.volume().await?;
        let volumes = self.shared.volume_paths(&self.project, instance).await?;
        Plan::new(instance, self.places(), volume, &volumes).map_err(Error::Invalid)
    }

    /// Removes everything that belongs to one run of the instance.
    pub(super) async fn clear_away(&mut self, power: Power) -> Result<()> {
        let places = self.places();
        self.driver().clean_up(&self.document.uuid.simple().to_string()).await?;
        step::done("what the supervisor left removed");
        let instance =
            self.snapshot(self.view.borrow().expanded_config.clone(), self.view.borrow().expanded_devices.clone());
        nics::detach_all(&self.shared.networks, &instance).await?;
        self.volatile.values.retain(|key, _| !key.ends_with(".host_name"));
        self.remember_power(power);
        match self.save_volatile().await {
            // It has ended all the same, and perhaps its deletion is what will free space.
            Err(e) if e.kind() == ErrorKind::NoSpace => {
                tracing::warn!(instance = %self.name, "its end is not recorded: {e}");
            }
            other => other?,
        }
        // Last: as long as there is this, the next daemon knows of the run's end and what it came to.
        remove_tree(&places.run_dir).await
    }
}

/// What is to be written into a container before it starts.
async fn due_templates(instance: &Arc<Instance>, plan: &Plan) -> Result<Templates> {
    if instance.kind != Kind::Container {
        return Ok(Templates::default());
    }
    let (instance, volume) = (instance.clone(), plan.volume.clone());
    blocking(move || templates::due(&Origin::open(&volume)?, &instance)).await
}

/// Makes the run and log directories, for root only.
pub(super) async fn make_directories(places: &Places) -> Result<()> {
    remove_tree(&places.run_dir).await?;
    for path in [&places.run_dir, &places.log_dir] {
        let mut builder = tokio::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(path).await.map_err(Error::io(format!("make the directory {}", path.display())))?;
    }
    Ok(())
}
