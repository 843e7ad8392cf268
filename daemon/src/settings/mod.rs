//! Configuration of the server (`/1.0`): read from memory, changed by the one task that owns it and what follows from it.

mod address;
mod owner;
mod table;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use berth_store::{Key, Store, doc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};

pub use address::Address;
pub use owner::Owner;

use crate::{
    http::{ApiError, ApiResult, etag, query::is_true},
    trust::PasswordHash,
};

/// Key of the password by which clients get trusted; its value is never kept or shown.
const TRUST_PASSWORD: &str = "core.trust_password";
/// Changes that wait for their turn.
const QUEUE: usize = 16;

/// The configuration as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ServerDoc {
    #[serde(default)]
    config: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trust_password: Option<PasswordHash>,
}

impl doc::Document for ServerDoc {
    const KIND: &'static str = "server configuration";
    const VERSION: u32 = 1;
}

fn key() -> Key {
    Key::new(&["cfg", "server"])
}

/// What becomes of keys that a change does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are unset.
    Replace,
    /// They stay.
    Merge,
}

/// A change of the configuration.
struct Change {
    values: Map<String, Value>,
    mode: Mode,
    /// Tag that the client last saw.
    headers: http::HeaderMap,
    done: oneshot::Sender<ApiResult<()>>,
}

/// The configuration; clones share it.
#[derive(Clone)]
pub struct Settings {
    current: watch::Receiver<Arc<ServerDoc>>,
    changes: mpsc::Sender<Change>,
}

impl Settings {
    /// Reads it. Nothing can be changed before the owner runs.
    pub async fn open(store: Arc<dyn Store>) -> Result<(Self, Owner), berth_store::StoreError> {
        let found = doc::get::<ServerDoc>(&*store, &key()).await?;
        let (sender, current) = watch::channel(Arc::new(found.map(|found| found.doc).unwrap_or_default()));
        let (changes, queue) = mpsc::channel(QUEUE);
        Ok((Self { current, changes }, Owner::new(store, sender, queue)))
    }

    fn current(&self) -> Arc<ServerDoc> {
        self.current.borrow().clone()
    }

    /// How the wire shows it: whether there is a password, not which.
    pub fn shown(&self) -> Map<String, Value> {
        let current = self.current();
        let mut shown: Map<_, _> =
            current.config.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect();
        if current.trust_password.is_some() {
            shown.insert(TRUST_PASSWORD.to_owned(), Value::Bool(true));
        }
        shown
    }

    /// Entity tag of all that can be changed.
    pub fn tag(&self) -> String {
        etag::of(&*self.current())
    }

    /// Value of a key, if it is set.
    pub fn get(&self, key: &str) -> Option<String> {
        self.current().config.get(key).cloned()
    }

    /// Value of a boolean key; `unset` if it is not set.
    pub fn flag(&self, key: &str, unset: bool) -> bool {
        self.get(key).map_or(unset, |value| is_true(&value))
    }

    /// What the password for getting trusted is compared with.
    pub fn trust_password(&self) -> Option<PasswordHash> {
        self.current().trust_password.clone()
    }

    /// How long tokens hold; `None`: until they are used or the daemon ends.
    pub fn token_expiry(&self) -> Option<Duration> {
        self.get("core.remote_token_expiry").and_then(|value| table::expiry(&value).ok())
    }

    /// How long operations may take to end when the daemon stops; `None`: as the daemon likes.
    pub fn shutdown_timeout(&self) -> Option<Duration> {
        self.get("core.shutdown_timeout").and_then(|value| table::minutes(&value).ok())
    }

    /// Address that the API is served on.
    pub fn https_address(&self) -> Option<Address> {
        Addresses::of(&self.current()).https
    }

    /// Changes it, as far as `If-Match` among the headers allows. An empty value unsets its key.
    pub async fn change(&self, values: Map<String, Value>, mode: Mode, headers: http::HeaderMap) -> ApiResult<()> {
        let (done, answer) = oneshot::channel();
        let gone = || ApiError::unavailable("Berth is shutting down");
        self.changes.send(Change { values, mode, headers, done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// What the daemon is to listen on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// For the API.
    pub https: Option<Address>,
    /// For figures only.
    pub metrics: Option<Address>,
}

impl Addresses {
    fn of(document: &ServerDoc) -> Self {
        let address = |key: &str| document.config.get(key).and_then(|value| address::parse(value).ok());
        Self { https: address("core.https_address"), metrics: address("core.metrics_address") }
    }
}
