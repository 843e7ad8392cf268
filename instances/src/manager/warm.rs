//! Warm images: of an image, one machine of each shape is booted, once and where nobody hears of it, and saved when its agent
//! is ready. New instances go on from there, as guests of their own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_guest::protocol::ExecSpec;
use berth_images::{Progress, ProgressEvent};
use berth_storage::VolumeRef;
use berth_store::{Txn, doc};
use berth_supervisor::protocol::Request;
use jiff::Timestamp;
use uuid::Uuid;

use super::create::{Content, Draft};
use super::launch::make_directories;
use super::live::{Heard, Live};
use super::open::placeholder;
use super::remove::remove_tree;
use super::stateful::{STATE, UNFINISHED};
use super::volumes::{Volume, by_bytes};
use super::{Instances, Shared};
use crate::blocking::blocking;
use crate::cloud_init;
use crate::devices::{self, Device};
use crate::documents::{Kept, Shape, VolatileDoc, WarmDoc, volatile_key, warm_key};
use crate::drivers::{saved, supervised};
use crate::error::{Error, Result};
use crate::idmap;
use crate::model::{Config, CreateRequest, Instance, Kind, WarmImage};
use crate::nics::{self, Nics};
use crate::plan::{self, Plan};

/// How long a guest may take to its agent; generous, for a host may be slow.
const BOOT_PATIENCE: Duration = Duration::from_secs(900);
/// How long its init may take after that until all is up. What is not up by then goes on in each instance. Shorter than
/// systemd-networkd-wait-online waits for a network, which the guest has not got: in the instance it finds one.
const INIT_PATIENCE: Duration = Duration::from_secs(90);
/// What a machine that is no instance is called in messages.
const NAME: &str = "berth-warm";
/// vsock address of a guest that has none yet (the first that is free for guests, vsock(7)).
const CID: &str = "3";

/// Which warm images.
#[derive(Debug, Clone, Copy)]
pub enum Warm<'a> {
    /// Those of an image.
    Image(&'a str),
    /// Those in a pool.
    Pool(&'a str),
}

impl Warm<'_> {
    fn is(self, document: &WarmDoc) -> bool {
        match self {
            Self::Image(fingerprint) => document.fingerprint == fingerprint,
            Self::Pool(pool) => document.pool == pool,
        }
    }
}

impl Instances {
    /// Sees to it that an instance of this request, whose source is [`Source::Warm`](crate::Source::Warm), can go on from a saved run.
    pub async fn warm_up(&self, project: &str, request: CreateRequest, progress: &Arc<Progress>) -> Result<()> {
        self.shared.projects.get(project).await?;
        let draft = self.shared.draft(project, request).await?;
        let Content::Warm(owner, fingerprint) = &draft.content else {
            return Err(Error::Invalid("only images can be made warm".to_owned()));
        };
        self.shared.warm(&draft, owner, fingerprint, progress).await.map(drop)
    }

    /// The warm images there are.
    pub async fn warm_images(&self, which: Warm<'_>) -> Result<Vec<WarmImage>> {
        let all = self.shared.warm_documents().await?.into_iter().filter(|(_, document)| which.is(document));
        let view = |(_, document): (Uuid, WarmDoc)| WarmImage {
            pool: document.pool,
            vcpus: document.shape.vcpus,
            memory: document.shape.memory,
            disk: document.shape.disk,
            nics: document.shape.nics.len(),
            created_at: document.created_at,
        };
        Ok(all.map(view).collect())
    }

    /// Removes warm images; instances that were made from them are not touched.
    pub async fn cool_down(&self, which: Warm<'_>) -> Result<()> {
        for (uuid, document) in self.shared.warm_documents().await? {
            if which.is(&document) {
                self.shared.remove_warm(uuid, &document).await?;
            }
        }
        Ok(())
    }

    /// At the daemon's start: removes what was made by other programs.
    pub(super) async fn clear_cold(&self) -> Result<()> {
        let documents = self.shared.warm_documents().await?;
        if documents.is_empty() {
            return Ok(());
        }
        let programs = self.shared.drivers.machine_programs().await?;
        for (uuid, document) in documents {
            if document.programs != programs {
                self.shared.remove_warm(uuid, &document).await?;
            }
        }
        Ok(())
    }

    /// Fills the volume of a new instance with that of the warm image.
    pub(super) async fn fork(
        &self,
        draft: &Draft,
        project: &str,
        fingerprint: &str,
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let shared = &self.shared;
        let uuid = shared.warm(draft, project, fingerprint, progress).await?;
        let (from, to) = (volume(&draft.document.pool, uuid), Volume::of(&draft.document));
        shared.pools.copy(&from.reference(), &to.reference(), by_bytes(progress)).await?.commit().await?;
        let key = volatile_key(draft.document.uuid);
        let kept = doc::update::<VolatileDoc, Error, _>(&*shared.store, &key, |volatile| {
            volatile.kept = Kept::Anothers;
            Ok(())
        });
        kept.await?.map(drop).ok_or_else(|| super::not_found(&draft.project, &draft.name))
    }
}

fn volume(pool: &str, uuid: Uuid) -> Volume {
    Volume { pool: pool.to_owned(), purpose: super::volumes::purpose(Kind::VirtualMachine, false), uuid }
}

/// The shape of the machine of a draft; refuses one that is told more at its boot than its name and addresses.
fn shape(draft: &Draft) -> Result<Shape> {
    let instance = instance(draft);
    let refuse = |what: String| Err(Error::Invalid(format!("{what} cannot be had warm; launch it without --warm")));
    for (name, device) in
        devices::parse_all(&draft.expanded_devices, Some(Kind::VirtualMachine)).map_err(Error::Invalid)?
    {
        if !matches!(device, Device::Root(_) | Device::Nic(_) | Device::None) {
            return refuse(format!("the device \"{name}\""));
        }
    }
    if cloud_init::is_wanted(&draft.expanded_config) {
        return refuse("what cloud-init is told at the first boot".to_owned());
    }
    let nics = plan::nics(&draft.expanded_devices, Kind::VirtualMachine).map_err(Error::Invalid)?;
    let plan = plan(&instance, Path::new(""), Path::new(""))?;
    Ok(Shape {
        vcpus: plan.vcpus().map_err(Error::Invalid)?,
        memory: plan.vm_memory(),
        disk: draft.disk_size,
        nics: nics.into_iter().map(|(_, nic)| nic.mtu).collect(),
    })
}

/// The machine that is booted for all.
fn instance(draft: &Draft) -> Instance {
    Instance {
        expanded_config: draft.expanded_config.clone(),
        expanded_devices: draft.expanded_devices.clone(),
        volatile: Config::from([("volatile.vsock_id".to_owned(), CID.to_owned())]),
        ..placeholder(&draft.project, NAME, &draft.document)
    }
}

fn plan(instance: &Instance, dir: &Path, volume: &Path) -> Result<Plan> {
    let places = plan::Places::of(dir, instance.uuid);
    let plan = Plan::new(instance, places, volume.to_owned(), &BTreeMap::new()).map_err(Error::Invalid)?;
    // In the kernel's arguments a name would stay for all who go on.
    Ok(Plan { hostname: None, ..plan })
}

impl Shared {
    async fn warm_documents(&self) -> Result<Vec<(Uuid, WarmDoc)>> {
        let documents = doc::list::<WarmDoc>(&*self.store, &warm_key(None)).await?;
        Ok(documents
            .into_iter()
            .filter_map(|(key, found)| Some((Uuid::parse_str(&key.name()).ok()?, found.doc)))
            .collect())
    }

    async fn remove_warm(&self, uuid: Uuid, document: &WarmDoc) -> Result<()> {
        let volume = volume(&document.pool, uuid);
        self.store.txn(Txn::new().delete(warm_key(Some(uuid))).write(volume.waste(None))).await?;
        self.dispose_or_later(&volume).await;
        Ok(())
    }

    /// Name of the volume of the warm image that fits; it is made if there is none.
    async fn warm(&self, draft: &Draft, project: &str, fingerprint: &str, progress: &Arc<Progress>) -> Result<Uuid> {
        let wanted = WarmDoc {
            fingerprint: fingerprint.to_owned(),
            pool: draft.document.pool.clone(),
            shape: shape(draft)?,
            programs: self.drivers.machine_programs().await?,
            created_at: Timestamp::now(),
        };
        // Who waits here mostly waits for the very image it wants.
        let _turn = self.warming.acquire().await.map_err(|_| Error::Runtime("the daemon stops".to_owned()))?;
        let fits = |found: &WarmDoc| WarmDoc { created_at: wanted.created_at, ..found.clone() } == wanted;
        if let Some((uuid, _)) = self.warm_documents().await?.into_iter().find(|(_, found)| fits(found)) {
            return Ok(uuid);
        }
        // One of its own: the draft's is that of the new instance.
        let uuid = Uuid::new_v4();
        let volume = volume(&wanted.pool, uuid);
        self.store.txn(Txn::new().write(volume.waste(None))).await?;
        match self.boot_and_save(draft, uuid, (project, fingerprint), progress).await {
            Ok(()) => {
                let txn = Txn::new().write(doc::put(warm_key(Some(uuid)), &wanted)).write(volume.used());
                self.store.txn(txn).await?;
                Ok(uuid)
            }
            Err(error) => {
                self.dispose_or_later(&volume).await;
                Err(error)
            }
        }
    }

    /// Makes a volume and boots it, in a run directory of which no instance speaks: a daemon that finds it at its start ends
    /// what runs there.
    async fn boot_and_save(
        &self,
        draft: &Draft,
        uuid: Uuid,
        image: (&str, &str),
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let mut instance = Instance { uuid, ..instance(draft) };
        // For minutes, and claimed by nobody: another process has the same one only by a chance of one in tens of thousands.
        let slot = idmap::candidate(&idmap::delegated())
            .ok_or_else(|| Error::Runtime("no range of user ids is free for another instance".to_owned()))?;
        instance.volatile.insert("volatile.idmap.base".to_owned(), idmap::base(slot).to_string());
        instance.volatile.extend(nics::invent_addresses(&instance)?);
        let volume = volume(&draft.document.pool, uuid);
        self.provision(&volume, draft.disk_size, Some(image), progress).await?;
        let VolumeRef { pool, kind, name } = volume.reference();
        let plan = plan(&instance, &self.dir, &self.pools.path(&pool, kind, &name).await?)?;
        make_directories(&plan.places).await?;
        let saved = self.run_until_ready(&plan, &instance, progress).await;
        let cleared = self.drivers.of(Kind::VirtualMachine).clean_up(&uuid.simple().to_string()).await;
        remove_tree(&plan.places.run_dir).await?;
        remove_tree(&plan.places.log_dir).await?;
        saved.and(cleared)
    }

    async fn run_until_ready(&self, plan: &Plan, instance: &Instance, progress: &Arc<Progress>) -> Result<()> {
        let told = |text: &str| ProgressEvent { stage: "warm".to_owned(), percent: None, text: text.to_owned() };
        progress(told("booting it once"));
        let run_dir = &plan.places.run_dir;
        let mut network = Nics::unconnected(&self.networks, instance)?;
        let launch = self.drivers.of(Kind::VirtualMachine).start(plan, &mut network, None).await?;
        let mut live = Live::new(launch.proceed(run_dir).await?, None);
        let saved = match tokio::time::timeout(BOOT_PATIENCE, ready(&mut live)).await {
            Ok(Ok(())) => {
                progress(told("saving it"));
                self.save(plan).await
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Runtime(format!(
                "the image was not ready in {} seconds; launch it without --warm and look at its console",
                BOOT_PATIENCE.as_secs()
            ))),
        };
        if saved.is_err() {
            // It may have ended by itself.
            let _ = supervised::ask(run_dir, &Request::Kill).await;
        }
        live.reap(run_dir).await?;
        saved
    }

    async fn save(&self, plan: &Plan) -> Result<()> {
        let (driver, run_dir) = (self.drivers.of(Kind::VirtualMachine), &plan.places.run_dir);
        // Where the init can tell that all is up.
        let up = async { driver.exec(run_dir, init_is_up()).await.ok()?.exit.await.ok()?.ok() };
        let up = tokio::time::timeout(INIT_PATIENCE, up).await;
        tracing::debug!(?up, "waited for the init of a guest to be saved");
        driver.settle(run_dir).await;
        let (state, unfinished) = (plan.volume.join(STATE), plan.volume.join(UNFINISHED));
        let standing = driver.save(run_dir, &plan.volume, &unfinished).await?;
        blocking(move || saved::complete(&unfinished, &state)).await?;
        standing.end().await
    }
}

/// Waits for the agent.
async fn ready(live: &mut Live) -> Result<()> {
    while live.agent.is_none() {
        if matches!(live.hear().await, Heard::End) {
            return Err(Error::Runtime(
                "the image ended before it was ready; launch it without --warm and look at its console".to_owned(),
            ));
        }
    }
    Ok(())
}

fn init_is_up() -> ExecSpec {
    // The agent is there before systemd answers on its bus. Where there is none, there is nothing to wait for.
    const SCRIPT: &str = "busctl --watch-bind=yes status org.freedesktop.systemd1 >/dev/null; \
                          systemctl is-system-running --wait";
    ExecSpec {
        command: ["sh", "-c", SCRIPT].map(str::to_owned).to_vec(),
        env: BTreeMap::from([("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())]),
        cwd: None,
        uid: 0,
        gid: 0,
        terminal: None,
    }
}
