//! Projects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Config, or_default};

/// A project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Project {
    /// Configuration: features, limits, restrictions.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Name.
    pub name: String,
    /// URLs of its objects.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
}

/// A new project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectsPost {
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Name.
    pub name: String,
}

/// What of a project can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectPut {
    /// Configuration.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
}

/// A new name of a project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectPost {
    /// New name.
    pub name: String,
}

/// What a project uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectState {
    /// Limit and usage by resource.
    #[serde(deserialize_with = "or_default")]
    pub resources: BTreeMap<String, ProjectStateResource>,
}

/// Limit and usage of a resource. Go's field names, capitals and all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ProjectStateResource {
    /// Limit, -1 for none.
    pub limit: i64,
    /// Usage.
    pub usage: i64,
}

impl From<Project> for ProjectPut {
    fn from(project: Project) -> Self {
        Self { config: project.config, description: project.description }
    }
}
