//! What an operation is made of and how the wire shows it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::http::Caller;

/// Class of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Works by itself.
    Task,
    /// Works with websockets that its creator connects.
    Websocket,
    /// Holds a secret for somebody else.
    Token,
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Made, not started.
    Pending,
    /// Works.
    Running,
    /// Was told to stop.
    Cancelling,
    /// Done.
    Success,
    /// Failed.
    Failure,
    /// Stopped before its end.
    Cancelled,
}

impl Status {
    /// The wire's number.
    pub fn code(self) -> u16 {
        match self {
            Self::Running => 103,
            Self::Cancelling => 104,
            Self::Pending => 105,
            Self::Success => 200,
            Self::Failure => 400,
            Self::Cancelled => 401,
        }
    }

    /// The wire's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Cancelling => "Cancelling",
            Self::Pending => "Pending",
            Self::Success => "Success",
            Self::Failure => "Failure",
            Self::Cancelled => "Cancelled",
        }
    }

    /// Whether nothing follows.
    pub fn is_final(self) -> bool {
        self.code() >= 200
    }
}

/// What is asked of [`super::Operations::spawn`].
#[derive(Debug)]
pub struct Spec {
    pub(super) class: Class,
    pub(super) description: String,
    pub(super) project: Option<String>,
    pub(super) caller: Caller,
    pub(super) resources: BTreeMap<&'static str, Vec<String>>,
    pub(super) metadata: Map<String, Value>,
    pub(super) private: Map<String, Value>,
    pub(super) may_cancel: bool,
}

impl Spec {
    /// A task. `project` is `None` for what belongs to none.
    pub fn new(description: &str, project: Option<&str>, caller: &Caller) -> Self {
        Self {
            class: Class::Task,
            description: description.to_owned(),
            project: project.map(str::to_owned),
            caller: caller.clone(),
            resources: BTreeMap::new(),
            metadata: Map::new(),
            private: Map::new(),
            may_cancel: false,
        }
    }

    /// Sets the class.
    pub fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// Names what the operation works on: a kind (`instances`) and a URL.
    pub fn resource(mut self, kind: &'static str, url: impl Into<String>) -> Self {
        self.resources.entry(kind).or_default().push(url.into());
        self
    }

    /// Adds metadata that everybody sees.
    pub fn metadata(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Adds metadata that only the creator sees, and only in the reply to the request.
    pub fn private(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.private.insert(key.to_owned(), value.into());
        self
    }

    /// Lets clients cancel it: its future is then dropped, which must leave nothing half done.
    pub fn cancellable(mut self) -> Self {
        self.may_cancel = true;
        self
    }
}

/// The part of an operation that changes.
#[derive(Debug, Clone)]
pub struct State {
    /// Where it stands.
    pub status: Status,
    /// Progress and result.
    pub metadata: Map<String, Value>,
    /// Why it failed.
    pub err: String,
    /// Time of the last change.
    pub updated_at: Timestamp,
}

/// The wire's object, keys in LXD's order.
#[derive(Debug, Serialize)]
pub(super) struct Wire<'a> {
    pub id: String,
    pub class: Class,
    pub description: &'a str,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub status: &'static str,
    pub status_code: u16,
    pub resources: Option<&'a BTreeMap<&'static str, Vec<String>>>,
    pub metadata: Option<Map<String, Value>>,
    pub may_cancel: bool,
    pub err: &'a str,
    pub location: &'static str,
}
