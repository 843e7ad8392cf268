//! One operation.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    sockets::Sockets,
    types::{Class, Spec, State, Status, Wire},
};
use crate::http::{Caller, query};

/// A running or just ended operation.
#[derive(Debug)]
pub struct Operation {
    id: Uuid,
    class: Class,
    description: String,
    project: Option<String>,
    caller: Caller,
    resources: BTreeMap<&'static str, Vec<String>>,
    private: Map<String, Value>,
    may_cancel: bool,
    created_at: Timestamp,
    state: watch::Sender<State>,
    pub(super) cancel: CancellationToken,
    pub(super) sockets: Sockets,
}

impl Operation {
    pub(super) fn new(spec: Spec, sockets: Sockets) -> Self {
        let now = Timestamp::now();
        let state = State { status: Status::Pending, metadata: spec.metadata, err: String::new(), updated_at: now };
        Self {
            id: Uuid::new_v4(),
            class: spec.class,
            description: spec.description,
            project: spec.project,
            caller: spec.caller,
            resources: spec.resources,
            private: spec.private,
            may_cancel: spec.may_cancel,
            created_at: now,
            state: watch::Sender::new(state),
            cancel: CancellationToken::new(),
            sockets,
        }
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// When it was made.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Its class.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The project it belongs to, if any.
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// Who made it.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Its URL.
    pub fn url(&self) -> String {
        query::url("/1.0/operations", &self.id.to_string(), self.project().unwrap_or(query::DEFAULT_PROJECT))
    }

    /// Whether it works on the object.
    pub fn works_on(&self, kind: &str, url: &str) -> bool {
        self.resources.get(kind).is_some_and(|urls| urls.iter().any(|u| u == url))
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        self.state.borrow().status
    }

    /// Whether a client may cancel it now.
    pub fn may_cancel(&self) -> bool {
        self.may_cancel && !self.status().is_final()
    }

    /// Changes the state unless it is final already; tells whether it did.
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) -> bool {
        self.change_if(|state| {
            change(state);
            true
        })
    }

    /// Like [`Operation::change`]; `change` tells whether it did anything.
    pub(super) fn change_if(&self, change: impl FnOnce(&mut State) -> bool) -> bool {
        self.state.send_if_modified(|state| {
            if state.status.is_final() || !change(state) {
                return false;
            }
            state.updated_at = Timestamp::now();
            true
        })
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.state.subscribe().wait_for(|state| state.status.is_final()).await;
    }

    /// What everybody may see.
    pub fn render(&self) -> Value {
        self.wire(false)
    }

    /// What a client sees that may do everything: tokens are handed out again.
    pub fn render_for_admin(&self) -> Value {
        self.wire(self.class == Class::Token)
    }

    /// What its creator sees in the reply: with the secrets.
    pub fn render_for_creator(&self) -> Value {
        self.wire(true)
    }

    fn wire(&self, private: bool) -> Value {
        let state = self.state.borrow().clone();
        let mut metadata = state.metadata;
        if private {
            metadata.extend(self.private.clone());
        }
        let wire = Wire {
            id: self.id.to_string(),
            class: self.class,
            description: &self.description,
            created_at: self.created_at,
            updated_at: state.updated_at,
            status: state.status.name(),
            status_code: state.status.code(),
            resources: Some(&self.resources).filter(|r| !r.is_empty()),
            metadata: Some(metadata).filter(|m| !m.is_empty()),
            may_cancel: self.may_cancel && !state.status.is_final(),
            err: &state.err,
            location: "none",
        };
        serde_json::to_value(wire).unwrap_or_default()
    }
}
