//! The task that owns the configuration: one change after the other, each done whole or not at all.

use std::{collections::BTreeMap, sync::Arc};

use berth_store::{Outcome, Store, Txn, doc};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};

use super::{Addresses, Change, Mode, ServerDoc, TRUST_PASSWORD, address, key, table};
use crate::{
    http::{ApiError, ApiResult, etag},
    tls::Listeners,
    trust::PasswordHash,
};

/// Shortest password that is taken: it is all that keeps strangers from the host.
const MIN_PASSWORD: usize = 8;

/// Changes the configuration.
pub struct Owner {
    store: Arc<dyn Store>,
    current: watch::Sender<Arc<ServerDoc>>,
    changes: mpsc::Receiver<Change>,
}

impl Owner {
    pub(super) fn new(
        store: Arc<dyn Store>,
        current: watch::Sender<Arc<ServerDoc>>,
        changes: mpsc::Receiver<Change>,
    ) -> Self {
        Self { store, current, changes }
    }

    /// Listens where the configuration says. A failure is logged: the unix socket is there to change it.
    pub async fn listen(self, mut listeners: Listeners) -> Running {
        let addresses = Addresses::of(&self.current.borrow());
        if let Err(error) = listeners.set(&addresses).await {
            tracing::error!("{error}");
        }
        Running { owner: self, listeners }
    }
}

/// The owner with what follows from the configuration.
pub struct Running {
    owner: Owner,
    listeners: Listeners,
}

impl Running {
    /// Serves changes until nobody can send any more.
    pub async fn run(mut self) {
        while let Some(change) = self.owner.changes.recv().await {
            let result = self.apply(change.values, change.mode, &change.headers).await;
            // Who asked may have gone; what was asked is done.
            let _ = change.done.send(result);
        }
    }

    async fn apply(&mut self, values: Map<String, Value>, mode: Mode, headers: &http::HeaderMap) -> ApiResult<()> {
        let Self { owner: Owner { store, current, .. }, listeners } = self;
        let old = current.borrow().clone();
        etag::check(headers, &etag::of(&*old))?;
        let new = changed(&old, values, mode).await?;
        if new == *old {
            return Ok(());
        }
        // First what can be refused by the host, then what is to be kept.
        listeners.set(&Addresses::of(&new)).await.map_err(ApiError::invalid)?;
        let written = store.txn(Txn::new().write(doc::put(key(), &new))).await;
        match written {
            Ok(Outcome::Committed { .. }) => {
                current.send_replace(Arc::new(new));
                Ok(())
            }
            // A write without conditions has no conflicts.
            Ok(Outcome::Conflict { .. }) => Err(ApiError::conflict("The server configuration was changed meanwhile")),
            Err(error) => {
                if let Err(error) = listeners.set(&Addresses::of(&old)).await {
                    tracing::error!("{error}");
                }
                Err(error.into())
            }
        }
    }
}

async fn changed(old: &ServerDoc, values: Map<String, Value>, mode: Mode) -> ApiResult<ServerDoc> {
    let mut new = match mode {
        Mode::Merge => old.clone(),
        Mode::Replace => ServerDoc { config: BTreeMap::new(), trust_password: None },
    };
    for (key, value) in values {
        // This is how it is shown, and so how it comes back from clients that change something else.
        if key == TRUST_PASSWORD && value == Value::Bool(true) {
            new.trust_password.clone_from(&old.trust_password);
            continue;
        }
        let value = text(&key, value)?;
        table::check(&key, &value).map_err(ApiError::invalid)?;
        if key == TRUST_PASSWORD {
            new.trust_password = password(value).await?;
        } else if value.is_empty() {
            new.config.remove(&key);
        } else {
            let value = if key.ends_with("_address") { whole_address(&value)? } else { value };
            new.config.insert(key, value);
        }
    }
    Ok(new)
}

async fn password(value: String) -> ApiResult<Option<PasswordHash>> {
    match value.len() {
        0 => Ok(None),
        1..MIN_PASSWORD => {
            Err(ApiError::invalid(format!("\"{TRUST_PASSWORD}\" is too short: it needs {MIN_PASSWORD} characters")))
        }
        _ => {
            let hash = tokio::task::spawn_blocking(move || PasswordHash::new(&value)).await;
            Ok(Some(hash.map_err(|error| ApiError::internal(error.to_string()))?))
        }
    }
}

fn whole_address(value: &str) -> ApiResult<String> {
    address::parse(value).map(|address| address.to_string()).map_err(ApiError::invalid)
}

fn text(key: &str, value: Value) -> ApiResult<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Null => Ok(String::new()),
        _ => Err(ApiError::invalid(format!("The value of \"{key}\" must be a string"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use berth_store::mem::MemStore;
    use http::{HeaderMap, StatusCode, header};
    use serde_json::json;

    async fn open(store: Arc<dyn Store>) -> Settings {
        let (settings, owner) = Settings::open(store).await.unwrap();
        tokio::spawn(owner.listen(Listeners::for_tests()).await.run());
        settings
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[tokio::test]
    async fn values_are_kept() {
        let store: Arc<dyn Store> = Arc::new(MemStore::new());
        let settings = open(store.clone()).await;
        let values = map(json!({"user.a": "1", "core.shutdown_timeout": 5, "core.proxy_http": ""}));
        settings.change(values, Mode::Replace, HeaderMap::new()).await.unwrap();
        assert_eq!(settings.shown(), map(json!({"core.shutdown_timeout": "5", "user.a": "1"})));
        settings.change(map(json!({"user.a": "2"})), Mode::Merge, HeaderMap::new()).await.unwrap();
        assert_eq!(open(store).await.shown(), map(json!({"core.shutdown_timeout": "5", "user.a": "2"})));
        settings.change(Map::new(), Mode::Replace, HeaderMap::new()).await.unwrap();
        assert!(settings.shown().is_empty());
    }

    #[tokio::test]
    async fn a_change_is_made_whole_or_not_at_all() {
        let settings = open(Arc::new(MemStore::new())).await;
        for bad in [json!({"core.proxy_htp": "x"}), json!({"user.": "x"}), json!({"user.b": {}})] {
            let mut values = map(json!({"user.a": "1"}));
            values.extend(map(bad));
            settings.change(values, Mode::Merge, HeaderMap::new()).await.unwrap_err();
            assert!(settings.shown().is_empty());
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_MATCH, "old".parse().unwrap());
        let stale = settings.change(map(json!({"user.a": "1"})), Mode::Merge, headers).await.unwrap_err();
        assert_eq!(stale.code(), StatusCode::PRECONDITION_FAILED);
    }

    #[tokio::test]
    async fn a_password_is_never_shown_and_survives_what_clients_send_back() {
        let store: Arc<dyn Store> = Arc::new(MemStore::new());
        let settings = open(store.clone()).await;
        let set = |value: Value| settings.change(map(value), Mode::Replace, HeaderMap::new());
        assert!(set(json!({"core.trust_password": "short"})).await.is_err());
        set(json!({"core.trust_password": "long enough"})).await.unwrap();
        assert_eq!(settings.shown(), map(json!({"core.trust_password": true})));
        let hash = settings.trust_password().unwrap();
        set(json!({"core.trust_password": true, "user.a": "1"})).await.unwrap();
        assert_eq!(settings.trust_password().as_ref(), Some(&hash));
        assert!(!format!("{:?}", settings.current()).contains("long enough"));
        assert!(open(store).await.trust_password().unwrap().verify("long enough"));
        set(json!({})).await.unwrap();
        assert!(settings.trust_password().is_none());
    }
}
