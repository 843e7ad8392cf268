//! Warnings.

use serde::{Deserialize, Serialize};

use crate::Time;

/// Something that needs the administrator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Warning {
    /// UUID.
    pub uuid: String,
    /// Cluster member; empty or `none` without a cluster.
    pub location: String,
    /// Project of the object.
    pub project: String,
    /// Kind of warning.
    #[serde(rename = "type")]
    pub kind: String,
    /// How often it was seen.
    pub count: i64,
    /// When it was seen first.
    pub first_seen_at: Time,
    /// When it was seen last.
    pub last_seen_at: Time,
    /// Text at the last time.
    pub last_message: String,
    /// `low`, `moderate` or `high`.
    pub severity: String,
    /// `new`, `acknowledged` or `resolved`.
    pub status: String,
    /// URL of the object.
    pub entity_url: String,
}

/// What of a warning can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WarningPut {
    /// `new` or `acknowledged`.
    pub status: String,
}
