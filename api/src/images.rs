//! Images and their aliases.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::exec::{InstanceMetadata as ImageMetadata, InstanceMetadataTemplate as ImageMetadataTemplate};
use crate::{Config, Devices, Time, instances::InstanceType, or_default};

/// An image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// Whether it is kept up to date from its source.
    pub auto_update: bool,
    /// Free properties.
    #[serde(deserialize_with = "or_default")]
    pub properties: BTreeMap<String, String>,
    /// Whether untrusted clients see it.
    pub public: bool,
    /// When it expires; epoch or zero for never.
    pub expires_at: Time,
    /// Profiles of instances made from it.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// Aliases.
    #[serde(deserialize_with = "or_default")]
    pub aliases: Vec<ImageAlias>,
    /// Architecture.
    pub architecture: String,
    /// Whether it is a cached copy of a remote image.
    pub cached: bool,
    /// Name of the file it came as.
    pub filename: String,
    /// SHA-256, hex.
    pub fingerprint: String,
    /// Bytes.
    pub size: i64,
    /// Where it came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_source: Option<ImageSource>,
    /// Kind of instance it is for.
    #[serde(rename = "type")]
    pub kind: InstanceType,
    /// When it was built.
    pub created_at: Time,
    /// When an instance was last made from it.
    pub last_used_at: Time,
    /// When it came to this server.
    pub uploaded_at: Time,
    /// *Berth:* every kind of instance that can be made from it, if more than one.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<InstanceType>,
}

/// Where an image came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSource {
    /// Alias on the other server.
    pub alias: String,
    /// PEM certificate of the other server.
    pub certificate: String,
    /// `lxd` or `simplestreams`.
    pub protocol: String,
    /// URL of the other server.
    pub server: String,
    /// Kind of instance.
    pub image_type: String,
}

/// What of an image can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImagePut {
    /// Whether it is kept up to date from its source.
    pub auto_update: bool,
    /// Free properties.
    #[serde(deserialize_with = "or_default")]
    pub properties: BTreeMap<String, String>,
    /// Whether untrusted clients see it.
    pub public: bool,
    /// When it expires.
    pub expires_at: Time,
    /// Profiles of instances made from it.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
}

impl From<Image> for ImagePut {
    fn from(image: Image) -> Self {
        Self {
            auto_update: image.auto_update,
            properties: image.properties,
            public: image.public,
            expires_at: image.expires_at,
            profiles: image.profiles,
        }
    }
}

/// A new image that is not uploaded: from another server, an instance, a URL, or built here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImagesPost {
    /// Whether it is kept up to date from its source.
    pub auto_update: bool,
    /// Free properties.
    #[serde(deserialize_with = "or_default")]
    pub properties: BTreeMap<String, String>,
    /// Whether untrusted clients see it.
    pub public: bool,
    /// When it expires.
    pub expires_at: Time,
    /// Profiles of instances made from it.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
    /// Name of the file it would be.
    pub filename: String,
    /// Where it comes from.
    pub source: Option<ImagesPostSource>,
    /// Compression program.
    pub compression_algorithm: String,
    /// Aliases to give it.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<ImageAlias>,
}

/// Where a new image comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImagesPostSource {
    /// Alias on the other server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub alias: String,
    /// PEM certificate of the other server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub certificate: String,
    /// `lxd` or `simplestreams`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// URL of the other server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// Kind of instance.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_type: String,
    /// `pull` or `push`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// `image`, `instance`, `snapshot`, `url`; *Berth:* `build`.
    #[serde(rename = "type")]
    pub kind: String,
    /// URL of the image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Instance or `instance/snapshot` to publish.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Fingerprint on the other server.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// Secret for a private image.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret: String,
    /// Project of the source.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// *Berth:* for `build`: distribution and release, `debian/12`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub distribution: String,
    /// *Berth:* for `build`: packages on top of the base system.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// *Berth:* for `build`: package mirror; the server's choice if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mirror: String,
}

/// An export of an image to another server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageExportPost {
    /// URL of the target.
    pub target: String,
    /// Secret of the target.
    pub secret: String,
    /// PEM certificate of the target.
    pub certificate: String,
    /// Aliases to give it there.
    #[serde(deserialize_with = "or_default")]
    pub aliases: Vec<ImageAlias>,
    /// Project there.
    pub project: String,
    /// Profiles there.
    #[serde(deserialize_with = "or_default")]
    pub profiles: Vec<String>,
}

/// An alias as part of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageAlias {
    /// Name.
    pub name: String,
    /// Description.
    pub description: String,
}

/// An alias.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageAliasesEntry {
    /// Description.
    pub description: String,
    /// Fingerprint of the image.
    pub target: String,
    /// Name.
    pub name: String,
    /// Kind of the image.
    #[serde(rename = "type")]
    pub kind: InstanceType,
}

/// A new alias.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageAliasesPost {
    /// Description.
    pub description: String,
    /// Fingerprint of the image.
    pub target: String,
    /// Name.
    pub name: String,
    /// Kind of the image; the server knows it.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
}

/// What of an alias can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageAliasesEntryPut {
    /// Description.
    pub description: String,
    /// Fingerprint of the image.
    pub target: String,
}

/// A new name of an alias.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageAliasesEntryPost {
    /// New name.
    pub name: String,
}

/// Berth's own: the machines for which an image is to be made warm.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageWarmPost {
    /// Configuration, as of an instance.
    #[serde(deserialize_with = "or_default")]
    pub config: Config,
    /// Devices, as of an instance.
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
    /// Profiles; those of the image if there are none.
    pub profiles: Option<Vec<String>>,
}

/// Berth's own: a run of an image from which new virtual machines go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageWarm {
    /// Storage pool it is in.
    pub pool: String,
    /// CPUs of such a machine.
    pub cpus: u64,
    /// Bytes of its memory.
    pub memory: u64,
    /// Bytes of its root disk.
    pub disk: u64,
    /// Number of its network interfaces.
    pub nics: u64,
    /// When the run was saved.
    pub created_at: Time,
}
