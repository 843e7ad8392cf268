//! Projects: who holds which objects, how many of them and of which kind.

mod admission;
mod config;
mod limits;
mod restrictions;

use std::sync::Arc;

use berth_images::Images;
use berth_network::Networks;
use berth_store::{Outcome, Store, Txn, admitted, doc};

pub use admission::{Change, ProjectAdmission};
pub use limits::Resource;

pub(crate) use admission::ProfileAdmission;

use admission::{ConfigAdmission, moved, objects_fence, profiles_fence};
use limits::Limits;
use restrictions::Restrictions;

use crate::documents::{
    InstanceDoc, ProfileDoc, ProjectDoc, instances_key, profile_key, profiles_key, project_key, projects_key,
};
use crate::error::{Error, Result};
use crate::model::Config;

/// The project that always exists.
pub const DEFAULT: &str = "default";
/// The profile that each project with profiles of its own has from the start.
const DEFAULT_PROFILE: &str = "default";
/// How many objects a message names that says a project is in use.
const NAMED: usize = 5;

/// A project.
#[derive(Debug, Clone)]
pub struct Project {
    /// Name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Configuration.
    pub config: Config,
    /// Revision of the document.
    pub revision: u64,
}

impl Project {
    /// Whether it has objects of a kind of its own.
    pub fn has(&self, feature: Feature) -> bool {
        config::flag(&self.config, feature.key())
    }
}

/// Objects that a project has of its own, or shares with the default project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// Images and their aliases.
    Images,
    /// Profiles.
    Profiles,
    /// Networks.
    Networks,
}

impl Feature {
    fn key(self) -> &'static str {
        match self {
            Self::Images => "features.images",
            Self::Profiles => "features.profiles",
            Self::Networks => "features.networks",
        }
    }
}

/// What a project may forbid to do with its instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Making snapshots.
    Snapshots,
    /// Making backups.
    Backups,
}

/// An object of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// Instance, by name.
    Instance(String),
    /// Image, by fingerprint.
    Image(String),
    /// Profile, by name.
    Profile(String),
    /// Network, by name.
    Network(String),
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Instance(name) => write!(f, "instance \"{name}\""),
            Self::Image(fingerprint) => write!(f, "image {}", &fingerprint[..12.min(fingerprint.len())]),
            Self::Profile(name) => write!(f, "profile \"{name}\""),
            Self::Network(name) => write!(f, "network \"{name}\""),
        }
    }
}

/// Limit and use of a resource of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// The resource.
    pub resource: Resource,
    /// How much there may be.
    pub limit: Option<u64>,
    /// How much there is.
    pub used: u64,
}

/// Work on projects.
#[derive(Clone)]
pub struct Projects {
    store: Arc<dyn Store>,
    images: Images,
    networks: Networks,
}

impl Projects {
    pub(crate) async fn open(store: Arc<dyn Store>, images: Images, networks: Networks) -> Result<Self> {
        let projects = Self { store, images, networks };
        let mut config = Config::new();
        config::complete(&mut config);
        config.insert(Feature::Networks.key().to_owned(), "true".to_owned());
        let document = ProjectDoc { description: "Default Berth project".to_owned(), config };
        let key = project_key(DEFAULT);
        projects.store.txn(Txn::new().absent(key.clone()).write(doc::put(key, &document))).await?;
        Ok(projects)
    }

    /// All projects, by name.
    pub async fn list(&self) -> Result<Vec<Project>> {
        let found = doc::list::<ProjectDoc>(&*self.store, &projects_key()).await?;
        Ok(found.into_iter().map(|(key, v)| project(key.name(), v.doc, v.mod_rev)).collect())
    }

    /// One project.
    pub async fn get(&self, name: &str) -> Result<Project> {
        let found = doc::get::<ProjectDoc>(&*self.store, &project_key(name)).await?;
        found.map(|v| project(name.to_owned(), v.doc, v.mod_rev)).ok_or_else(|| not_found(name))
    }

    /// The project that holds objects of a kind for `project`: itself or the default project.
    pub async fn owner(&self, project: &str, feature: Feature) -> Result<String> {
        if project == DEFAULT {
            return Ok(DEFAULT.to_owned());
        }
        let own = self.get(project).await?.has(feature);
        Ok(if own { project } else { DEFAULT }.to_owned())
    }

    /// The project whose profiles a project uses.
    fn owner_of<'a>(&self, project: &'a Project) -> &'a str {
        self.owner_of_config(&project.name, &project.config)
    }

    fn owner_of_config<'a>(&self, name: &'a str, config: &Config) -> &'a str {
        if config::flag(config, Feature::Profiles.key()) { name } else { DEFAULT }
    }

    /// Fails if a project is restricted and does not allow this.
    pub async fn permits(&self, project: &str, permission: Permission) -> Result<()> {
        let found = self.get(project).await?;
        let key = match permission {
            Permission::Snapshots => "restricted.snapshots",
            Permission::Backups => "restricted.backups",
        };
        let Some(restrictions) = Restrictions::of(project, &found.config) else { return Ok(()) };
        restrictions.allows(key).map_err(Error::Forbidden)
    }

    /// Everything that a project holds itself.
    pub async fn contents(&self, name: &str) -> Result<Vec<Object>> {
        let instances = doc::list::<InstanceDoc>(&*self.store, &instances_key().child(name)).await?;
        let profiles = doc::list::<ProfileDoc>(&*self.store, &profiles_key(name)).await?;
        let images = self.images.list(name).await?.into_iter().map(|image| Object::Image(image.fingerprint));
        let networks = self.networks.names(name).await?.into_iter().map(Object::Network);
        let instances = instances.into_iter().map(|(key, _)| Object::Instance(key.name()));
        let profiles = profiles.into_iter().map(|(key, _)| Object::Profile(key.name()));
        Ok(instances.chain(profiles).chain(images).chain(networks).collect())
    }

    /// What a project uses of each resource.
    pub async fn usage(&self, name: &str) -> Result<Vec<Usage>> {
        let ledger = self.ledger(name).await?;
        let (holdings, _) = self.counted(&ledger, None).await?;
        let limits = Limits::of(&ledger.document.doc.config);
        let usage = |resource| Usage { resource, limit: limits.get(resource), used: holdings.used(resource) };
        Ok(Resource::ALL.into_iter().map(usage).collect())
    }

    /// Makes a project, with an empty default profile if it has profiles of its own.
    pub async fn create(&self, name: &str, description: String, mut config: Config) -> Result<Project> {
        check_name(name).map_err(Error::Invalid)?;
        config::complete(&mut config);
        config::validate(&config).map_err(Error::Invalid)?;
        let profile = ProfileDoc { description: format!("Default profile of project {name}"), ..ProfileDoc::default() };
        let own_profiles = config::flag(&config, Feature::Profiles.key());
        let key = project_key(name);
        let mut txn = Txn::new().absent(key.clone()).write(doc::put(key, &ProjectDoc { description, config }));
        if own_profiles {
            txn = txn.write(doc::put(profile_key(name, DEFAULT_PROFILE), &profile));
        }
        match self.store.txn(txn).await? {
            Outcome::Committed { .. } => self.get(name).await,
            Outcome::Conflict { .. } => Err(exists(name)),
        }
    }

    /// Changes a project. What it holds must fit its new limits and restrictions. Its features can be changed only
    /// while it holds nothing; those that are not named stay.
    pub async fn update(&self, name: &str, description: String, mut config: Config, revision: u64) -> Result<()> {
        let old = self.get(name).await?;
        config::keep_features(&mut config, &old.config);
        config::validate(&config).map_err(Error::Invalid)?;
        let changed = config::changed_features(&old.config, &config);
        let key = project_key(name);
        let document = ProjectDoc { description, config };
        let mut txn = Txn::new().mod_rev(key.clone(), revision).write(doc::put(key, &document));
        let outcome = if changed.is_empty() {
            let admission = ConfigAdmission { projects: self, project: name, config: &document.config };
            admitted(&*self.store, &txn, &admission, 0).await?
        } else {
            let fenced = self.vacant(name, &format!("changed in its {}", changed.join(", "))).await?;
            if changed.contains(&Feature::Profiles.key()) {
                let key = profile_key(name, DEFAULT_PROFILE);
                txn = match config::flag(&document.config, Feature::Profiles.key()) {
                    true => txn.write(doc::put(key, &ProfileDoc::default())),
                    false => txn.delete(key),
                };
            }
            self.store.txn(moved(txn.and(fenced), objects_fence(name))).await?
        };
        match outcome {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { .. } => Err(changed_meanwhile(name)),
        }
    }

    /// Gives a project that holds nothing another name.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        check_name(new_name).map_err(Error::Invalid)?;
        let old = self.get(name).await?;
        let fenced = self.vacant(name, "renamed").await?;
        let document = ProjectDoc { description: old.description.clone(), config: old.config.clone() };
        let mut txn = Txn::new()
            .absent(project_key(new_name))
            .mod_rev(project_key(name), old.revision)
            .and(fenced)
            .write(doc::put(project_key(new_name), &document));
        if let Some(profile) = doc::get::<ProfileDoc>(&*self.store, &profile_key(name, DEFAULT_PROFILE)).await? {
            let (from, to) = (profile_key(name, DEFAULT_PROFILE), profile_key(new_name, DEFAULT_PROFILE));
            txn = txn.mod_rev(from, profile.mod_rev).write(doc::put(to, &profile.doc));
        }
        match self.store.txn(without(txn, name)).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { current } if current.first().is_some_and(Option::is_some) => Err(exists(new_name)),
            Outcome::Conflict { .. } => Err(changed_meanwhile(name)),
        }
    }

    /// Deletes a project that holds nothing.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let project = self.get(name).await?;
        let fenced = self.vacant(name, "deleted").await?;
        let txn = Txn::new().mod_rev(project_key(name), project.revision).and(fenced);
        match self.store.txn(without(txn, name)).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { .. } => Err(changed_meanwhile(name)),
        }
    }

    /// The condition that a project, which holds nothing now, still does not.
    async fn vacant(&self, name: &str, verb: &str) -> Result<Txn> {
        if name == DEFAULT {
            return Err(Error::InUse(format!("the project \"{DEFAULT}\" cannot be {verb}")));
        }
        let ledger = self.ledger(name).await?;
        let mut contents = self.contents(name).await?;
        contents.retain(|object| *object != Object::Profile(DEFAULT_PROFILE.to_owned()));
        if contents.is_empty() {
            return Ok(ledger.fenced(Txn::new()));
        }
        let mut named: Vec<String> = contents.iter().take(NAMED).map(Object::to_string).collect();
        if contents.len() > NAMED {
            named.push(format!("{} more", contents.len() - NAMED));
        }
        Err(Error::InUse(format!(
            "only empty projects can be {verb}, and project \"{name}\" holds {}; delete these first",
            named.join(", ")
        )))
    }
}

/// Removes the documents of an empty project.
fn without(txn: Txn, name: &str) -> Txn {
    txn.delete(project_key(name))
        .delete(profile_key(name, DEFAULT_PROFILE))
        .delete(objects_fence(name))
        .delete(profiles_fence(name))
}

fn project(name: String, document: ProjectDoc, revision: u64) -> Project {
    Project { name, description: document.description, config: document.config, revision }
}

fn not_found(name: &str) -> Error {
    Error::NotFound { what: "Project", name: name.to_owned(), project: name.to_owned() }
}

fn exists(name: &str) -> Error {
    Error::Exists { what: "Project", name: name.to_owned(), project: name.to_owned() }
}

fn changed_meanwhile(name: &str) -> Error {
    Error::Changed { what: "Project", name: name.to_owned() }
}

fn check_name(name: &str) -> std::result::Result<(), String> {
    let good = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        && !name.starts_with(['-', '.']);
    if good { Ok(()) } else { Err(format!("Invalid project name \"{name}\": use letters, digits, '-', '_' and '.'")) }
}
