//! Profiles.

use serde::{Deserialize, Serialize};

use crate::{Config, Devices, or_default};

/// A profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// Configuration for instances.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Devices for instances.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// Name.
    pub name: String,
    /// URLs of the instances that use it.
    #[serde(deserialize_with = "or_default")]
    pub used_by: Vec<String>,
}

/// A new profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProfilesPost {
    /// Configuration for instances.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Devices for instances.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// Name.
    pub name: String,
}

/// What of a profile can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProfilePut {
    /// Configuration for instances.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Description.
    #[serde(deserialize_with = "or_default")]
    pub description: String,
    /// Devices for instances.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
}

/// A new name of a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProfilePost {
    /// New name.
    pub name: String,
}

impl From<Profile> for ProfilePut {
    fn from(profile: Profile) -> Self {
        Self { config: profile.config, description: profile.description, devices: profile.devices }
    }
}
