//! Making an instance.

use std::sync::Arc;

use berth_images::Progress;
use berth_store::{Outcome, Txn, admitted, doc, step};
use jiff::Timestamp;
use uuid::Uuid;

use super::volumes::Volume;
use super::{Instances, Shared};
use crate::backups::Restored;
use crate::devices::{self, Link};
use crate::documents::{
    Claim, InstanceDoc, Phase, Purpose, VolatileDoc, idmap_key, instance_key, uuid_key, volatile_key, vsock_key,
};
use crate::drivers::Provision;
use crate::error::{Error, Result};
use crate::expand::expand;
use crate::idmap;
use crate::keys;
use crate::model::{Config, CreateRequest, Devices, Instance, Kind, Original, Source, TroubleKind};
use crate::names;
use crate::plan;
use crate::projects::{Change, Feature};
use crate::templates::Trigger;

/// First vsock address a guest may have; 0 to 2 are reserved (vsock(7)).
const FIRST_CID: u32 = 3;

impl Instances {
    /// Makes an instance and fills its root volume. On an error nothing is left behind.
    pub async fn create(
        &self,
        project: &str,
        mut request: CreateRequest,
        progress: &Arc<Progress>,
    ) -> Result<Arc<Instance>> {
        self.shared.projects.get(project).await?;
        self.inherit(&mut request)?;
        let draft = self.shared.draft(project, request).await?;
        self.shared.claim(&draft).await?;
        if let Err(e) = self.fill(&draft, progress).await {
            // What stays in spite of all is removed at the daemon's next start: the document says `Creating`.
            if let Err(again) = self.shared.remove(project, &draft.name, &draft.document).await {
                let message = format!("what was made of it could not be removed and goes at the next start: {again}");
                self.shared.trouble(TroubleKind::Leftover, project, &draft.name, message);
            }
            return Err(e);
        }
        let Draft { name, document, .. } = draft;
        self.shared.clone().own(project.to_owned(), name.clone()).await?;
        let location = document.kind.to_string();
        self.shared.emit("instance-created", project, &name, &[("type", &location)]);
        self.get(project, &name)
    }
}

/// An instance that does not exist yet.
pub(super) struct Draft {
    pub project: String,
    pub name: String,
    pub document: InstanceDoc,
    volatile: VolatileDoc,
    pub expanded_config: Config,
    pub expanded_devices: Devices,
    pub content: Content,
    pub disk_size: u64,
}

/// What the volume of a new instance is filled with.
pub(super) enum Content {
    Nothing,
    /// Project and fingerprint of an image.
    Image(String, String),
    /// The same, in its warm state.
    Warm(String, String),
    Copy(Original),
    Backup(Arc<Restored>),
}

impl Shared {
    pub(super) async fn draft(&self, project: &str, request: CreateRequest) -> Result<Draft> {
        let name = request.name;
        names::check(&name).map_err(Error::Invalid)?;
        let kind = request.kind;
        let mut config = request.config;
        config.retain(|key, _| !key.starts_with("volatile."));
        let (content, properties, image_profiles) = self.source(project, kind, request.source).await?;
        for (key, value) in properties {
            config.entry(format!("image.{key}")).or_insert(value);
        }
        keys::validate(&config, Some(kind)).map_err(Error::Invalid)?;
        devices::parse_all(&request.devices, Some(kind)).map_err(Error::Invalid)?;
        let profiles = request.profiles.unwrap_or(image_profiles);
        let (expanded_config, expanded_devices) = self.expanded(project, &profiles, &config, &request.devices).await?;
        keys::validate(&expanded_config, Some(kind)).map_err(Error::Invalid)?;
        let (pool, disk_size) = plan::root_disk(&expanded_devices, kind).map_err(Error::Invalid)?;
        self.check_references(project, &pool, &expanded_devices, kind).await?;
        let uuid = Uuid::new_v4();
        let mut values = Config::from([("volatile.uuid".to_owned(), uuid.to_string())]);
        match &content {
            Content::Image(..) | Content::Warm(..) | Content::Nothing => Trigger::Create.defer(kind, &mut values),
            Content::Copy(_) => Trigger::Copy.defer(kind, &mut values),
            Content::Backup(_) => {}
        }
        let base = match &content {
            Content::Image(_, fingerprint) | Content::Warm(_, fingerprint) => Some(fingerprint),
            Content::Copy(original) => original.base_image.as_ref(),
            Content::Nothing | Content::Backup(_) => None,
        };
        if let Some(fingerprint) = base {
            values.insert("volatile.base_image".to_owned(), fingerprint.clone());
        }
        let mut draft = Draft {
            project: project.to_owned(),
            document: InstanceDoc {
                uuid,
                kind,
                architecture: std::env::consts::ARCH.to_owned(),
                description: request.description,
                config,
                devices: request.devices,
                profiles,
                ephemeral: request.ephemeral,
                created_at: Timestamp::now(),
                pool,
                volume: uuid,
                phase: Phase::Creating,
            },
            volatile: VolatileDoc { values, ..VolatileDoc::default() },
            expanded_config,
            expanded_devices,
            name,
            content,
            disk_size,
        };
        if let Content::Backup(restored) = &draft.content {
            draft.document.architecture.clone_from(&restored.architecture);
            draft.document.created_at = restored.created_at;
            draft.volatile.last_used_at = restored.last_used_at;
            draft.volatile.values.extend(self.still_good(restored));
        }
        Ok(draft)
    }

    /// What the volume is filled with, the properties of the image, and the profiles it wants.
    pub(super) async fn source(
        &self,
        project: &str,
        kind: Kind,
        source: Source,
    ) -> Result<(Content, Config, Vec<String>)> {
        let default = || vec!["default".to_owned()];
        let (fingerprint, warm) = match source {
            Source::Image { fingerprint } => (fingerprint, false),
            Source::Warm { fingerprint } => (fingerprint, true),
            Source::Copy(original) => return Ok((Content::Copy(original), Config::new(), default())),
            Source::Backup(restored) => return Ok((Content::Backup(restored), Config::new(), default())),
            Source::None => return Ok((Content::Nothing, Config::new(), default())),
        };
        let owner = self.projects.owner(project, Feature::Images).await?;
        let image = self.images.get(&owner, &fingerprint).await?;
        if warm && kind != Kind::VirtualMachine {
            return Err(Error::Invalid(
                "only virtual machines can start warm; leave it out for a container".to_owned(),
            ));
        }
        if kind == Kind::VirtualMachine {
            self.images.check_bootable(&image)?;
        } else if !image.kinds.container {
            return Err(Error::Invalid(format!(
                "image {} cannot be used for a {kind}; choose another image or kind",
                &image.fingerprint[..12.min(image.fingerprint.len())]
            )));
        }
        let profiles = if image.profiles.is_empty() { default() } else { image.profiles };
        let content = if warm { Content::Warm } else { Content::Image };
        Ok((content(owner, image.fingerprint), image.properties, profiles))
    }

    /// Configuration and devices with the named profiles applied.
    pub(super) async fn expanded(
        &self,
        project: &str,
        profiles: &[String],
        config: &Config,
        devices: &crate::model::Devices,
    ) -> Result<(Config, crate::model::Devices)> {
        let known = self.profiles.by_name(project).await?;
        let mut chosen = Vec::with_capacity(profiles.len());
        for name in profiles {
            let missing = || Error::NotFound { what: "Profile", name: name.clone(), project: project.to_owned() };
            chosen.push(known.get(name).ok_or_else(missing)?);
        }
        Ok(expand(chosen.into_iter().map(|p| (&p.config, &p.devices)), config, devices))
    }

    /// Whether pool and networks that an instance speaks of exist.
    pub(super) async fn check_references(
        &self,
        project: &str,
        pool: &str,
        devices: &crate::model::Devices,
        kind: Kind,
    ) -> Result<()> {
        self.pools.get(pool).await?;
        let owner = self.projects.owner(project, Feature::Networks).await?;
        for (device, nic) in plan::nics(devices, kind).map_err(Error::Invalid)? {
            let network = self.networks.get(&owner, nic.link.name()).await?;
            match nic.link {
                Link::Network(name) if !network.managed => {
                    return Err(Error::Invalid(format!(
                        "device \"{device}\": \"{name}\" is not a managed network; say nictype=bridged parent={name}"
                    )));
                }
                Link::Bridge(name) if network.kind != "bridge" => {
                    return Err(Error::Invalid(format!(
                        "device \"{device}\": \"{name}\" is a link of type {}, not a bridge",
                        network.kind
                    )));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the documents and the claims that go with them in one transaction.
    async fn claim(&self, draft: &Draft) -> Result<()> {
        /// Each attempt fails only if another instance got the same number by chance.
        const ATTEMPTS: usize = 64;
        let delegated = idmap::delegated();
        let key = instance_key(&draft.project, &draft.name);
        let holder = Claim { instance: draft.document.uuid };
        for _ in 0..ATTEMPTS {
            let mut volatile = draft.volatile.clone();
            let slot = idmap::candidate(&delegated).ok_or_else(|| {
                Error::Runtime(
                    "no range of user ids is free for another instance; free some in /etc/subuid and /etc/subgid"
                        .to_owned(),
                )
            })?;
            volatile.values.insert("volatile.idmap.base".to_owned(), idmap::base(slot).to_string());
            let mut claims = vec![idmap_key(slot)];
            if draft.document.kind == Kind::VirtualMachine {
                let cid = rand::random_range(FIRST_CID..u32::MAX);
                volatile.values.insert("volatile.vsock_id".to_owned(), cid.to_string());
                claims.push(vsock_key(cid));
            }
            let mut txn = claims.iter().cloned().fold(Txn::new().absent(key.clone()), Txn::absent);
            txn = txn
                .write(doc::put(key.clone(), &draft.document))
                .write(doc::put(volatile_key(draft.document.uuid), &volatile))
                .write(doc::put(uuid_key(draft.document.uuid), &holder));
            txn = claims.into_iter().fold(txn, |txn, claim| txn.write(doc::put(claim, &holder)));
            let change = Change::Instance {
                name: &draft.name,
                kind: draft.document.kind,
                config: &draft.expanded_config,
                devices: &draft.expanded_devices,
            };
            match admitted(&*self.store, &txn, &self.projects.admission(&draft.project, change), 0).await? {
                Outcome::Committed { .. } => return Ok(()),
                Outcome::Conflict { current } if current.first().is_some_and(Option::is_some) => {
                    return Err(Error::Exists {
                        what: "Instance",
                        name: draft.name.clone(),
                        project: draft.project.clone(),
                    });
                }
                Outcome::Conflict { .. } => {}
            }
        }
        Err(Error::Runtime("no range of user ids was found free for another instance; delete some".to_owned()))
    }
}

impl Instances {
    async fn fill(&self, draft: &Draft, progress: &Arc<Progress>) -> Result<()> {
        let document = &draft.document;
        match &draft.content {
            Content::Copy(original) => self.copy_into(original, document, progress).await?,
            Content::Image(project, fingerprint) => {
                let image = Some((project.as_str(), fingerprint.as_str()));
                self.shared.provision(&Volume::of(document), draft.disk_size, image, progress).await?;
            }
            Content::Backup(restored) => self.shared.unpack_backup(draft, restored, progress).await?,
            Content::Nothing => {
                self.shared.provision(&Volume::of(document), draft.disk_size, None, progress).await?;
            }
            Content::Warm(project, fingerprint) => self.fork(draft, project, fingerprint, progress).await?,
        }
        self.shared.limit_volume(document, &draft.expanded_devices).await?;
        let key = instance_key(&draft.project, &draft.name);
        let done = doc::update::<InstanceDoc, Error, _>(&*self.shared.store, &key, |document| {
            document.phase = Phase::Ready;
            Ok(())
        });
        done.await?.map(drop).ok_or_else(|| super::not_found(&draft.project, &draft.name))
    }
}

impl Shared {
    /// Makes the volume of an instance, with the content of an image (project and fingerprint) if there is one.
    pub(super) async fn provision(
        &self,
        volume: &Volume,
        disk_size: u64,
        image: Option<(&str, &str)>,
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let kind = match volume.purpose {
            Purpose::Container | Purpose::ContainerSnapshot => Kind::Container,
            Purpose::VirtualMachine | Purpose::VirtualMachineSnapshot => Kind::VirtualMachine,
        };
        let place = volume.reference();
        let pending = self.pools.prepare(&place.pool, place.kind, &place.name).await?;
        let source = Provision { images: &self.images, image, disk_size };
        self.drivers.of(kind).provision(pending.path(), &source, &**progress).await?;
        step::done("content made");
        pending.commit().await?;
        Ok(())
    }
}
