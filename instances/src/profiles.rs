//! Profiles.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_store::{Outcome, Store, Txn, admitted, doc};

use crate::devices;
use crate::documents::{InstanceDoc, ProfileDoc, SnapshotDoc, instances_key, profile_key, profiles_key, snapshots_key};
use crate::error::{Error, Result};
use crate::keys;
use crate::model::{Config, Devices};
use crate::projects::{Change, DEFAULT, Feature, ProfileAdmission, Projects};

/// A profile.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Configuration it gives to instances.
    pub config: Config,
    /// Devices it gives to instances.
    pub devices: Devices,
    /// Revision of the document.
    pub revision: u64,
}

/// Work on profiles. The project given is the one the client speaks of; one without profiles of its own uses
/// those of the default project.
#[derive(Clone)]
pub struct Profiles {
    store: Arc<dyn Store>,
    projects: Projects,
}

impl Profiles {
    /// Opens; at first start makes the default profile with a root disk on `pool` and `eth0` on `network`.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        projects: Projects,
        pool: &str,
        network: Option<&str>,
    ) -> Result<Self> {
        let device = |pairs: &[(&str, &str)]| -> Config {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let mut devices =
            Devices::from([("root".to_owned(), device(&[("type", "disk"), ("path", "/"), ("pool", pool)]))]);
        if let Some(network) = network {
            devices.insert("eth0".to_owned(), device(&[("type", "nic"), ("name", "eth0"), ("network", network)]));
        }
        let document = ProfileDoc { description: "Default Berth profile".to_owned(), devices, config: Config::new() };
        let key = profile_key(DEFAULT, "default");
        store.txn(Txn::new().absent(key.clone()).write(doc::put(key, &document))).await?;
        Ok(Self { store, projects })
    }

    /// All profiles, by name.
    pub async fn list(&self, project: &str) -> Result<Vec<Profile>> {
        let owner = self.projects.owner(project, Feature::Profiles).await?;
        let found = doc::list::<ProfileDoc>(&*self.store, &profiles_key(&owner)).await?;
        Ok(found.into_iter().map(|(key, v)| profile(key.name(), v.doc, v.mod_rev)).collect())
    }

    pub(crate) async fn by_name(&self, project: &str) -> Result<BTreeMap<String, Profile>> {
        Ok(self.list(project).await?.into_iter().map(|p| (p.name.clone(), p)).collect())
    }

    /// One profile.
    pub async fn get(&self, project: &str, name: &str) -> Result<Profile> {
        let owner = self.projects.owner(project, Feature::Profiles).await?;
        doc::get::<ProfileDoc>(&*self.store, &profile_key(&owner, name))
            .await?
            .map(|v| profile(name.to_owned(), v.doc, v.mod_rev))
            .ok_or_else(|| Error::NotFound { what: "Profile", name: name.to_owned(), project: project.to_owned() })
    }

    pub(crate) async fn create(
        &self,
        project: &str,
        name: &str,
        description: String,
        config: Config,
        devices: Devices,
    ) -> Result<()> {
        check_name(name).map_err(Error::Invalid)?;
        check(&config, &devices)?;
        let owner = self.projects.owner(project, Feature::Profiles).await?;
        let key = profile_key(&owner, name);
        let document = ProfileDoc { description, config, devices };
        let txn = Txn::new().absent(key.clone()).write(doc::put(key, &document));
        let change = Change::Profile { config: &document.config, devices: &document.devices };
        match admitted(&*self.store, &txn, &self.projects.admission(&owner, change), 0).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { .. } => Err(exists(project, name)),
        }
    }

    pub(crate) async fn update(
        &self,
        project: &str,
        name: &str,
        description: String,
        config: Config,
        devices: Devices,
        revision: u64,
    ) -> Result<()> {
        check(&config, &devices)?;
        let owner = self.projects.owner(project, Feature::Profiles).await?;
        let key = profile_key(&owner, name);
        let document = ProfileDoc { description, config, devices };
        let txn = Txn::new().mod_rev(key.clone(), revision).write(doc::put(key, &document));
        let admission = ProfileAdmission { projects: &self.projects, owner: &owner, name, document: &document };
        match admitted(&*self.store, &txn, &admission, 0).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { .. } => Err(Error::Changed { what: "Profile", name: name.to_owned() }),
        }
    }

    pub(crate) async fn rename(&self, project: &str, name: &str, new_name: &str) -> Result<()> {
        check_name(new_name).map_err(Error::Invalid)?;
        let old = self.get(project, name).await?;
        let owner = self.projects.owner(project, Feature::Profiles).await?;
        self.refuse_if_used(&owner, name, "renamed").await?;
        let (from, to) = (profile_key(&owner, name), profile_key(&owner, new_name));
        let document = ProfileDoc { description: old.description, config: old.config, devices: old.devices };
        let txn = Txn::new()
            .mod_rev(from.clone(), old.revision)
            .absent(to.clone())
            .delete(from)
            .write(doc::put(to, &document));
        match self.store.txn(txn).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { .. } => Err(exists(project, new_name)),
        }
    }

    pub(crate) async fn delete(&self, project: &str, name: &str) -> Result<()> {
        let old = self.get(project, name).await?;
        let owner = self.projects.owner(project, Feature::Profiles).await?;
        self.refuse_if_used(&owner, name, "deleted").await?;
        let key = profile_key(&owner, name);
        match self.store.txn(Txn::new().mod_rev(key.clone(), old.revision).delete(key)).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { .. } => Err(Error::Changed { what: "Profile", name: name.to_owned() }),
        }
    }

    async fn refuse_if_used(&self, owner: &str, name: &str, verb: &str) -> Result<()> {
        if name == "default" {
            return Err(Error::Invalid(format!("the profile \"default\" cannot be {verb}; edit it instead")));
        }
        for (key, instance) in doc::list::<InstanceDoc>(&*self.store, &instances_key()).await? {
            let project = key.segments().get(1).cloned().unwrap_or_default();
            let same = self.projects.owner(&project, Feature::Profiles).await? == owner;
            if same && instance.doc.profiles.iter().any(|p| p == name) {
                return Err(Error::InUse(format!(
                    "profile \"{name}\" cannot be {verb}: instance \"{}\" of project \"{project}\" uses it; remove it there first",
                    key.name()
                )));
            }
            let snapshots = doc::list::<SnapshotDoc>(&*self.store, &snapshots_key(instance.doc.uuid)).await?;
            if let Some((snapshot, _)) =
                snapshots.iter().find(|(_, s)| same && s.doc.profiles.iter().any(|p| p == name))
            {
                return Err(Error::InUse(format!(
                    "profile \"{name}\" cannot be {verb}: snapshot \"{}/{}\" of project \"{project}\" uses it; delete that first",
                    key.name(),
                    snapshot.name()
                )));
            }
        }
        Ok(())
    }
}

fn exists(project: &str, name: &str) -> Error {
    Error::Exists { what: "Profile", name: name.to_owned(), project: project.to_owned() }
}

fn profile(name: String, document: ProfileDoc, revision: u64) -> Profile {
    let ProfileDoc { description, config, devices } = document;
    Profile { name, description, config, devices, revision }
}

fn check(config: &Config, devices: &Devices) -> Result<()> {
    keys::validate(config, None).map_err(Error::Invalid)?;
    devices::parse_all(devices, None).map_err(Error::Invalid)?;
    Ok(())
}

fn check_name(name: &str) -> std::result::Result<(), String> {
    let good = !name.is_empty()
        && name.len() <= 63
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'&' | b'#' | b'%'));
    if good {
        Ok(())
    } else {
        Err(format!("Invalid profile name \"{name}\": use up to 63 letters, digits, '-' and '_'"))
    }
}
