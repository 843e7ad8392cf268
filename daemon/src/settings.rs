//! Configuration of the server (`/1.0`).

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use berth_store::{Key, Outcome, Store, Txn, doc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::http::{ApiError, ApiResult};

/// Keys that are kept besides `user.*`. What they ask for and this version cannot do yet is refused, not ignored.
const KNOWN: &[&str] = &[
    "core.bgp_asn",
    "core.bgp_routerid",
    "core.https_allowed_credentials",
    "core.https_allowed_headers",
    "core.https_allowed_methods",
    "core.https_allowed_origin",
    "core.https_trusted_proxy",
    "core.metrics_authentication",
    "core.proxy_http",
    "core.proxy_https",
    "core.proxy_ignore_hosts",
    "core.remote_token_expiry",
    "core.shutdown_timeout",
    "core.trust_ca_certificates",
];
/// Keys that only make sense where the daemon listens on the network.
const LISTENERS: &[&str] = &[
    "core.bgp_address",
    "core.debug_address",
    "core.dns_address",
    "core.https_address",
    "core.metrics_address",
    "core.trust_password",
];
/// Longest value.
const MAX_VALUE: usize = 64 * 1024;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct ServerDoc {
    #[serde(default)]
    config: BTreeMap<String, String>,
}

impl doc::Document for ServerDoc {
    const KIND: &'static str = "server configuration";
    const VERSION: u32 = 1;
}

/// The configuration, kept in the store and read from memory.
pub struct Settings {
    store: Arc<dyn Store>,
    current: RwLock<BTreeMap<String, String>>,
}

fn key() -> Key {
    Key::new(&["cfg", "server"])
}

impl Settings {
    /// Reads it.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, berth_store::StoreError> {
        let config = doc::get::<ServerDoc>(&*store, &key()).await?.map(|found| found.doc.config).unwrap_or_default();
        Ok(Self { store, current: RwLock::new(config) })
    }

    /// All of it.
    pub fn config(&self) -> BTreeMap<String, String> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the wire shows it.
    pub fn shown(&self) -> Map<String, Value> {
        self.config().into_iter().map(|(key, value)| (key, Value::String(value))).collect()
    }

    /// Replaces it. An empty value unsets its key.
    pub async fn replace(&self, wanted: &Map<String, Value>) -> ApiResult<()> {
        let mut config = BTreeMap::new();
        for (key, value) in wanted {
            let value = text(key, value)?;
            check(key, &value)?;
            if !value.is_empty() {
                config.insert(key.clone(), value);
            }
        }
        let document = ServerDoc { config: config.clone() };
        let txn = Txn::new().write(doc::put(key(), &document));
        match self.store.txn(txn).await? {
            Outcome::Committed { .. } => {}
            Outcome::Conflict { .. } => {
                return Err(ApiError::conflict("The server configuration was changed meanwhile"));
            }
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }
}

fn text(key: &str, value: &Value) -> ApiResult<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Null => Ok(String::new()),
        _ => Err(ApiError::invalid(format!("The value of \"{key}\" must be a string"))),
    }
}

fn check(key: &str, value: &str) -> ApiResult<()> {
    if value.len() > MAX_VALUE {
        return Err(ApiError::invalid(format!("The value of \"{key}\" is longer than {MAX_VALUE} bytes")));
    }
    if key.strip_prefix("user.").is_some_and(|rest| !rest.is_empty()) {
        return Ok(());
    }
    if LISTENERS.contains(&key) {
        return match value {
            "" => Ok(()),
            _ => {
                Err(ApiError::invalid(format!("\"{key}\" cannot be set: this version only listens on its unix socket")))
            }
        };
    }
    if !KNOWN.contains(&key) {
        let near = KNOWN.iter().copied().map(|known| (strsim::damerau_levenshtein(known, key), known)).min();
        let hint = match near {
            Some((distance, known)) if distance <= 3 => format!("; did you mean \"{known}\"?"),
            _ => "; keys of your own begin with \"user.\"".to_owned(),
        };
        return Err(ApiError::invalid(format!("Unknown server configuration key \"{key}\"{hint}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_store::mem::MemStore;
    use serde_json::json;

    async fn settings() -> Settings {
        Settings::open(Arc::new(MemStore::new())).await.unwrap()
    }

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[tokio::test]
    async fn values_are_kept() {
        let settings = settings().await;
        settings
            .replace(&map(json!({"user.a": "1", "core.shutdown_timeout": 5, "core.proxy_http": ""})))
            .await
            .unwrap();
        assert_eq!(settings.shown(), map(json!({"core.shutdown_timeout": "5", "user.a": "1"})));
        let again = Settings::open(settings.store.clone()).await.unwrap();
        assert_eq!(again.config(), settings.config());
        settings.replace(&Map::new()).await.unwrap();
        assert!(settings.config().is_empty());
    }

    #[tokio::test]
    async fn what_is_unknown_or_not_possible_is_refused() {
        let settings = settings().await;
        let error = settings.replace(&map(json!({"core.proxy_htp": "x"}))).await.unwrap_err();
        assert!(error.to_string().contains("did you mean \"core.proxy_http\""), "{error}");
        assert!(settings.replace(&map(json!({"core.https_address": ":8443"}))).await.is_err());
        assert!(settings.replace(&map(json!({"user.": "x"}))).await.is_err());
        assert!(settings.replace(&map(json!({"user.a": {}}))).await.is_err());
    }
}
