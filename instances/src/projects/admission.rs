//! Keeping to a project's limits and restrictions inside the transaction that makes or changes something.
//!
//! Each project has two fences, documents without content. Whoever makes or changes something that counts writes the
//! fence `objects` in the same transaction; whoever changes a profile writes the fence `profiles` of the project that
//! holds it. A decision reads the fences first and demands that they are unchanged when it is committed. A project
//! without limits demands nothing of its fence, so that what is made there does not wait for others.

use std::collections::BTreeMap;

use async_trait::async_trait;
use berth_store::doc::{self, Document, Versioned};
use berth_store::{Admission, Key, Kv, StoreError, Txn};
use serde::{Deserialize, Serialize};

use super::limits::{Holdings, Limits, Member};
use super::restrictions::Restrictions;
use super::{Projects, not_found};
use crate::documents::{InstanceDoc, ProfileDoc, ProjectDoc, instances_key, profiles_key, project_key};
use crate::error::{Error, Result};
use crate::expand::expand;
use crate::model::{Config, Devices, Kind};

#[derive(Serialize, Deserialize)]
struct Fence {}

impl Document for Fence {
    const KIND: &'static str = "fence of a project";
    const VERSION: u32 = 1;
}

/// What a project is asked to admit.
pub enum Change<'a> {
    /// Something that is neither limited nor restricted; the project must be there.
    Object,
    /// A new or changed instance, with its profiles applied.
    Instance {
        /// Name.
        name: &'a str,
        /// Kind.
        kind: Kind,
        /// Expanded configuration.
        config: &'a Config,
        /// Expanded devices.
        devices: &'a Devices,
    },
    /// A new profile.
    Profile {
        /// Configuration.
        config: &'a Config,
        /// Devices.
        devices: &'a Devices,
    },
    /// A new image.
    Image,
    /// A new network.
    Network,
}

/// The fence that what a project holds is counted behind.
pub(super) fn objects_fence(project: &str) -> Key {
    Key::new(&["fence", project, "objects"])
}

/// The fence of a project's own profiles.
pub(super) fn profiles_fence(project: &str) -> Key {
    Key::new(&["fence", project, "profiles"])
}

/// Demands that a fence is as it was seen.
fn unchanged(txn: Txn, key: Key, seen: Option<&Kv>) -> Txn {
    match seen {
        Some(kv) => txn.mod_rev(key, kv.mod_rev),
        None => txn.absent(key),
    }
}

/// Moves a fence.
pub(super) fn moved(txn: Txn, key: Key) -> Txn {
    txn.write(doc::put(key, &Fence {}))
}

fn refused(reason: String) -> StoreError {
    StoreError::NotAdmitted(reason)
}

/// For traits that speak of the store only.
fn flatten(error: Error) -> StoreError {
    match error {
        Error::Store(error) => error,
        other => refused(other.to_string()),
    }
}

/// Asks one project about one change.
pub struct ProjectAdmission<'a> {
    pub(super) projects: &'a Projects,
    pub(super) project: &'a str,
    pub(super) change: Change<'a>,
}

#[async_trait]
impl Admission for ProjectAdmission<'_> {
    async fn admit(&self, bytes: u64) -> std::result::Result<Txn, StoreError> {
        let project = self.project;
        let ledger = self.projects.ledger(project).await.map_err(flatten)?;
        let config = &ledger.document.doc.config;
        if let Some(restrictions) = Restrictions::of(project, config) {
            match &self.change {
                Change::Instance { kind, config, devices, .. } => restrictions.check(Some(*kind), config, devices),
                Change::Profile { config, devices } => restrictions.check(None, config, devices),
                Change::Object | Change::Image | Change::Network => Ok(()),
            }
            .map_err(refused)?;
        }
        let same = Txn::new().mod_rev(project_key(project), ledger.document.mod_rev);
        let limits = Limits::of(config);
        if limits.is_empty() || matches!(self.change, Change::Object | Change::Profile { .. }) {
            return Ok(moved(same, objects_fence(project)));
        }
        let (mut holdings, fenced) = self.projects.counted(&ledger, None).await.map_err(flatten)?;
        match &self.change {
            Change::Instance { name, kind, config, devices } => holdings.put(Member {
                name: (*name).to_owned(),
                kind: *kind,
                config: (*config).clone(),
                devices: (*devices).clone(),
            }),
            Change::Image => holdings.images = holdings.images.saturating_add(bytes),
            Change::Network => holdings.networks += 1,
            Change::Object | Change::Profile { .. } => {}
        }
        holdings.check(project, &limits).map_err(refused)?;
        Ok(moved(same.and(fenced), objects_fence(project)))
    }
}

/// Asks all projects that use a profile whether it may become like this.
pub(crate) struct ProfileAdmission<'a> {
    pub projects: &'a Projects,
    /// Project that holds the profile.
    pub owner: &'a str,
    pub name: &'a str,
    pub document: &'a ProfileDoc,
}

#[async_trait]
impl Admission for ProfileAdmission<'_> {
    async fn admit(&self, _: u64) -> std::result::Result<Txn, StoreError> {
        let projects = self.projects;
        let fence = profiles_fence(self.owner);
        let seen = projects.store.get(&fence).await?;
        let mut txn = moved(unchanged(Txn::new(), fence, seen.as_ref()), profiles_fence(self.owner));
        txn = txn.exists(project_key(self.owner));
        for project in projects.list().await.map_err(flatten)? {
            if projects.owner_of(&project) != self.owner {
                continue;
            }
            let restrictions = Restrictions::of(&project.name, &project.config);
            if project.name == self.owner
                && let Some(restrictions) = &restrictions
            {
                restrictions.check(None, &self.document.config, &self.document.devices).map_err(refused)?;
            }
            let limits = Limits::of(&project.config);
            if limits.is_empty() && restrictions.is_none() {
                continue;
            }
            let ledger = projects.ledger(&project.name).await.map_err(flatten)?;
            let counted = projects.counted(&ledger, Some((self.name, self.document))).await.map_err(flatten)?;
            counted.0.check(&project.name, &limits).map_err(refused)?;
            if let Some(restrictions) = &restrictions {
                restrictions.check_all(&counted.0.members).map_err(refused)?;
            }
            // The fence of the profiles stands there already.
            txn = unchanged(txn, objects_fence(&project.name), ledger.seen.as_ref());
        }
        Ok(txn)
    }
}

/// Asks whether what a project holds fits a new configuration of it.
pub(super) struct ConfigAdmission<'a> {
    pub projects: &'a Projects,
    pub project: &'a str,
    pub config: &'a Config,
}

#[async_trait]
impl Admission for ConfigAdmission<'_> {
    async fn admit(&self, _: u64) -> std::result::Result<Txn, StoreError> {
        let ledger = self.projects.ledger(self.project).await.map_err(flatten)?;
        let (holdings, fenced) = self.projects.counted(&ledger, None).await.map_err(flatten)?;
        holdings.check(self.project, &Limits::of(self.config)).map_err(refused)?;
        if let Some(restrictions) = Restrictions::of(self.project, self.config) {
            restrictions.check_all(&holdings.members).map_err(refused)?;
        }
        // Whoever decides about a profile of these must see this configuration.
        let owner = self.projects.owner_of_config(self.project, &ledger.document.doc.config);
        Ok(moved(moved(fenced, objects_fence(self.project)), profiles_fence(owner)))
    }
}

/// A project as it was after its fence was read.
pub(super) struct Ledger {
    pub name: String,
    pub document: Versioned<ProjectDoc>,
    pub seen: Option<Kv>,
}

impl Ledger {
    /// Demands that nothing was made or changed since.
    pub fn fenced(&self, txn: Txn) -> Txn {
        unchanged(txn, objects_fence(&self.name), self.seen.as_ref())
    }
}

impl Projects {
    /// Asks `project` about a change when its transaction is committed.
    pub fn admission<'a>(&'a self, project: &'a str, change: Change<'a>) -> ProjectAdmission<'a> {
        ProjectAdmission { projects: self, project, change }
    }

    /// Reads a project, its fence first.
    pub(super) async fn ledger(&self, project: &str) -> Result<Ledger> {
        let seen = self.store.get(&objects_fence(project)).await?;
        let document = doc::get::<ProjectDoc>(&*self.store, &project_key(project)).await?;
        let document = document.ok_or_else(|| not_found(project))?;
        Ok(Ledger { name: project.to_owned(), document, seen })
    }

    /// What a project holds, and the conditions under which that is still so. With `changed` as if that profile
    /// looked like this.
    pub(super) async fn counted(
        &self,
        ledger: &Ledger,
        changed: Option<(&str, &ProfileDoc)>,
    ) -> Result<(Holdings, Txn)> {
        let project = &ledger.name;
        let owner = self.owner_of_config(project, &ledger.document.doc.config);
        let fence = profiles_fence(owner);
        let seen = self.store.get(&fence).await?;
        let found = doc::list::<ProfileDoc>(&*self.store, &profiles_key(owner)).await?;
        let mut profiles: BTreeMap<String, ProfileDoc> =
            found.into_iter().map(|(key, v)| (key.name(), v.doc)).collect();
        if let Some((name, document)) = changed {
            profiles.insert(name.to_owned(), document.clone());
        }
        let instances = doc::list::<InstanceDoc>(&*self.store, &instances_key().child(project)).await?;
        let members = instances.into_iter().map(|(key, v)| member(key.name(), &v.doc, &profiles)).collect();
        let images = self.images.size_of_all(project).await?;
        let networks = self.networks.names(project).await?.len() as u64;
        Ok((Holdings { members, images, networks }, unchanged(ledger.fenced(Txn::new()), fence, seen.as_ref())))
    }
}

fn member(name: String, document: &InstanceDoc, profiles: &BTreeMap<String, ProfileDoc>) -> Member {
    let used = document.profiles.iter().filter_map(|name| profiles.get(name)).map(|p| (&p.config, &p.devices));
    let (config, devices) = expand(used, &document.config, &document.devices);
    Member { name, kind: document.kind, config, devices }
}
