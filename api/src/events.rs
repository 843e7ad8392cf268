//! Messages of the events websocket.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Time, or_default};

/// Type of events about operations.
pub const TYPE_OPERATION: &str = "operation";
/// Type of events about changes of objects.
pub const TYPE_LIFECYCLE: &str = "lifecycle";
/// Type of log messages.
pub const TYPE_LOGGING: &str = "logging";

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// `operation`, `lifecycle` or `logging`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it happened.
    pub timestamp: Time,
    /// An [`Operation`](crate::operations::Operation), [`Lifecycle`] or [`Logging`].
    #[serde(deserialize_with = "or_default")]
    pub metadata: Value,
    /// Cluster member; `none` without a cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub location: String,
    /// Project of the object; empty for events of none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub project: String,
}

/// A change of an object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lifecycle {
    /// What happened, `object-verb`: `instance-started`.
    pub action: String,
    /// URL of the object.
    pub source: String,
    /// Details.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Map::is_empty")]
    pub context: Map<String, Value>,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requestor: Option<Requestor>,
}

/// Who asked for a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requestor {
    /// User name or certificate fingerprint.
    pub username: String,
    /// `unix`, `tls` or `cluster`.
    pub protocol: String,
    /// Address of the client, `@` for the unix socket.
    pub address: String,
}

/// A log message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// Text.
    pub message: String,
    /// `debug`, `info`, `warning` or `error`.
    pub level: String,
    /// Details.
    #[serde(deserialize_with = "or_default")]
    pub context: Map<String, Value>,
}
