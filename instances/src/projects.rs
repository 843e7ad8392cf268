//! Projects.

use std::sync::Arc;

use berth_store::{Outcome, Store, Txn, doc};

use crate::documents::{ProfileDoc, ProjectDoc, instances_key, profile_key, profiles_key, project_key, projects_key};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::values::parse_bool;

/// The project that always exists.
pub const DEFAULT: &str = "default";

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

/// Keys with the value a new project gets.
const FEATURES: &[(&str, &str)] = &[
    ("features.images", "true"),
    ("features.networks", "false"),
    ("features.profiles", "true"),
    ("features.storage.volumes", "true"),
];

/// Work on projects.
#[derive(Clone)]
pub struct Projects {
    store: Arc<dyn Store>,
}

impl Projects {
    pub(crate) async fn open(store: Arc<dyn Store>) -> Result<Self> {
        let projects = Self { store };
        let config = FEATURES.iter().map(|(k, _)| ((*k).to_owned(), "true".to_owned())).collect();
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
        let own = self.get(project).await?.config.get(feature.key()).is_some_and(|v| parse_bool(v) == Ok(true));
        Ok(if own { project } else { DEFAULT }.to_owned())
    }

    /// Makes a project, with an empty default profile if it has profiles of its own.
    pub async fn create(&self, name: &str, description: String, mut config: Config) -> Result<Project> {
        check_name(name).map_err(Error::Invalid)?;
        for (key, value) in FEATURES {
            config.entry((*key).to_owned()).or_insert_with(|| (*value).to_owned());
        }
        check_config(&config).map_err(Error::Invalid)?;
        let profile = ProfileDoc { description: format!("Default profile of project {name}"), ..ProfileDoc::default() };
        let mut txn = Txn::new()
            .absent(project_key(name))
            .write(doc::put(project_key(name), &ProjectDoc { description, config: config.clone() }));
        if parse_bool(&config["features.profiles"]) == Ok(true) {
            txn = txn.write(doc::put(profile_key(name, "default"), &profile));
        }
        match self.store.txn(txn).await? {
            Outcome::Committed { .. } => self.get(name).await,
            Outcome::Conflict { .. } => {
                Err(Error::Exists { what: "Project", name: name.to_owned(), project: name.to_owned() })
            }
        }
    }

    /// Changes a project. Features cannot be changed while the project has instances.
    pub async fn update(&self, name: &str, description: String, mut config: Config, revision: u64) -> Result<()> {
        let old = self.get(name).await?;
        for (key, value) in FEATURES {
            config.entry((*key).to_owned()).or_insert_with(|| (*value).to_owned());
        }
        check_config(&config).map_err(Error::Invalid)?;
        let changed = FEATURES.iter().any(|(key, _)| old.config.get(*key) != config.get(*key));
        if changed && (name == DEFAULT || !self.is_empty(name).await?) {
            return Err(Error::InUse(format!(
                "the features of project \"{name}\" cannot be changed while it has instances or is the default project"
            )));
        }
        let key = project_key(name);
        let txn = Txn::new().mod_rev(key.clone(), revision).write(doc::put(key, &ProjectDoc { description, config }));
        match self.store.txn(txn).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { .. } => Err(Error::Changed { what: "Project", name: name.to_owned() }),
        }
    }

    /// Deletes an empty project with its profiles.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let project = self.get(name).await?;
        if name == DEFAULT || !self.is_empty(name).await? {
            return Err(Error::InUse(format!(
                "project \"{name}\" cannot be deleted: it is the default project or still has instances or images; delete those first"
            )));
        }
        let mut txn = Txn::new().mod_rev(project_key(name), project.revision).delete(project_key(name));
        for (key, _) in doc::list::<ProfileDoc>(&*self.store, &profiles_key(name)).await? {
            txn = txn.delete(key);
        }
        match self.store.txn(txn).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { .. } => Err(Error::Changed { what: "Project", name: name.to_owned() }),
        }
    }

    async fn is_empty(&self, name: &str) -> Result<bool> {
        for prefix in [instances_key().child(name), berth_store::Key::new(&["image", name])] {
            if !self.store.range(&prefix).await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn project(name: String, document: ProjectDoc, revision: u64) -> Project {
    Project { name, description: document.description, config: document.config, revision }
}

fn not_found(name: &str) -> Error {
    Error::NotFound { what: "Project", name: name.to_owned(), project: name.to_owned() }
}

fn check_name(name: &str) -> std::result::Result<(), String> {
    let good = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && !name.starts_with(['-', '.']);
    if good { Ok(()) } else { Err(format!("Invalid project name \"{name}\": use letters, digits, '-' and '.'")) }
}

fn check_config(config: &Config) -> std::result::Result<(), String> {
    for (key, value) in config {
        if FEATURES.iter().any(|(name, _)| name == key) {
            parse_bool(value).map_err(|e| format!("value of \"{key}\": {e}"))?;
        } else if !key.starts_with("user.") {
            return Err(format!(
                "key \"{key}\" is unknown or not supported by this version for projects; known: {}, user.*",
                FEATURES.iter().map(|(k, _)| *k).collect::<Vec<_>>().join(", ")
            ));
        }
    }
    Ok(())
}
