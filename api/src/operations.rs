//! Background operations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{StatusCode, Time, or_default};

/// Class of an operation that only works.
pub const CLASS_TASK: &str = "task";
/// Class of an operation with websockets.
pub const CLASS_WEBSOCKET: &str = "websocket";
/// Class of an operation that is a token.
pub const CLASS_TOKEN: &str = "token";

/// A background operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operation {
    /// UUID.
    pub id: String,
    /// `task`, `websocket` or `token`.
    pub class: String,
    /// What it does.
    pub description: String,
    /// When it was made.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
    /// Text of `status_code`.
    pub status: String,
    /// Where it stands.
    pub status_code: StatusCode,
    /// URLs of the objects it works on, by kind.
    #[serde(deserialize_with = "or_default")]
    pub resources: BTreeMap<String, Vec<String>>,
    /// Results, progress (`*_progress`) and websocket secrets (`fds`).
    pub metadata: Option<Map<String, Value>>,
    /// Whether `DELETE` cancels it.
    pub may_cancel: bool,
    /// Why it failed; empty if it did not.
    pub err: String,
    /// Cluster member it runs on; `none` without a cluster.
    pub location: String,
}

impl Operation {
    /// URL of the operation, without project.
    #[must_use]
    pub fn url(&self) -> String {
        format!("/1.0/operations/{}", self.id)
    }

    /// A value of the metadata.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.as_ref()?.get(key)
    }

    /// Exit status that an `exec` operation ended with.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.value("return")?.as_i64().and_then(|code| i32::try_from(code).ok())
    }

    /// Secret of the websocket of this name (`0`, `1`, `2`, `control`).
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<&str> {
        self.value("fds")?.get(name)?.as_str()
    }
}

/// Operations by lower-case status, as `GET /1.0/operations?recursion=1` answers.
pub type OperationsByStatus = BTreeMap<String, Vec<Operation>>;
