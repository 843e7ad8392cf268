//! Warnings: what falls short and needs the administrator, kept until it is deleted.

use std::{collections::BTreeMap, sync::Arc};

use berth_instances::{Trouble, TroubleKind};
use berth_network::Networks;
use berth_storage::{Pools, StorageError};
use berth_store::{Key, Store, StoreError, Txn, doc};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::broadcast::{self, error::RecvError};
use uuid::Uuid;

use crate::http::query::{DEFAULT_PROJECT, url};

/// What a warning is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A network does not work, or not wholly.
    Network,
    /// A storage pool cannot be used.
    Pool,
    /// An instance did not start with the daemon.
    Autostart,
    /// Something that failed could not be undone.
    Leftover,
}

impl Kind {
    /// LXD's words where it has any.
    pub fn text(self) -> &'static str {
        match self {
            Self::Network => "Network unavailable",
            Self::Pool => "Storage pool unavailable",
            Self::Autostart => "Instance autostart failure",
            Self::Leftover => "Incomplete clean-up",
        }
    }

    /// `low`, `moderate` or `high`.
    pub fn severity(self) -> &'static str {
        match self {
            Self::Network | Self::Pool => "high",
            Self::Autostart => "moderate",
            Self::Leftover => "low",
        }
    }
}

/// How far a warning has been dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nobody has.
    New,
    /// The administrator has seen it.
    Acknowledged,
    /// Its cause is gone.
    Resolved,
}

/// A warning.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Warning {
    /// What it is about.
    pub kind: Kind,
    /// Project of the object.
    pub project: String,
    /// URL of the object.
    pub entity_url: String,
    /// What happened last.
    pub message: String,
    /// How often.
    pub count: u64,
    /// When first.
    pub first_seen_at: Timestamp,
    /// When last.
    pub last_seen_at: Timestamp,
    /// How far it has been dealt with.
    pub status: Status,
}

impl doc::Document for Warning {
    const KIND: &'static str = "warning";
    const VERSION: u32 = 1;
}

/// All warnings. An object has at most one of each kind.
#[derive(Clone)]
pub struct Warnings {
    store: Arc<dyn Store>,
}

fn all() -> Key {
    Key::new(&["warning"])
}

/// The same warning of the same object keeps its id.
fn id(kind: Kind, entity_url: &str) -> Uuid {
    let digest = Sha256::new().chain_update(kind.text()).chain_update([0]).chain_update(entity_url).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

fn key(id: Uuid) -> Key {
    all().child(&id.to_string())
}

impl Warnings {
    /// Those in the store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// All of them, by id.
    pub async fn list(&self) -> Result<Vec<(String, Warning)>, StoreError> {
        let found = doc::list::<Warning>(&*self.store, &all()).await?;
        Ok(found.into_iter().map(|(key, warning)| (key.name(), warning.doc)).collect())
    }

    /// One of them.
    pub async fn get(&self, id: &str) -> Result<Option<Warning>, StoreError> {
        let Ok(id) = Uuid::parse_str(id) else { return Ok(None) };
        Ok(doc::get::<Warning>(&*self.store, &key(id)).await?.map(|found| found.doc))
    }

    /// Tells that something falls short. A failure of the store leaves only the log.
    pub async fn raise(&self, kind: Kind, project: &str, entity_url: &str, message: &str) {
        let now = Timestamp::now();
        let key = key(id(kind, entity_url));
        let again = doc::update::<Warning, StoreError, _>(&*self.store, &key, |warning| {
            warning.count += 1;
            warning.last_seen_at = now;
            warning.message = message.to_owned();
            if warning.status == Status::Resolved {
                warning.status = Status::New;
            }
            Ok(())
        });
        let written = match again.await {
            Ok(None) => {
                let warning = Warning {
                    kind,
                    project: project.to_owned(),
                    entity_url: entity_url.to_owned(),
                    message: message.to_owned(),
                    count: 1,
                    first_seen_at: now,
                    last_seen_at: now,
                    status: Status::New,
                };
                self.store.txn(Txn::new().absent(key.clone()).write(doc::put(key, &warning))).await.map(drop)
            }
            other => other.map(drop),
        };
        if let Err(error) = written {
            tracing::warn!(%error, entity_url, "a warning could not be kept: {message}");
        }
    }

    /// Tells that the cause of a warning is gone.
    pub async fn resolve(&self, kind: Kind, entity_url: &str) {
        let set = self.set_status(&id(kind, entity_url).to_string(), Status::Resolved).await;
        if let Err(error) = set {
            tracing::warn!(%error, entity_url, "a warning could not be marked as resolved");
        }
    }

    /// Tells that the causes of all warnings of a kind are gone, or will show themselves again.
    pub async fn resolve_all(&self, kind: Kind) -> Result<(), StoreError> {
        for (_, warning) in self.list().await?.into_iter().filter(|(_, warning)| warning.kind == kind) {
            self.resolve(kind, &warning.entity_url).await;
        }
        Ok(())
    }

    /// Sets how far a warning has been dealt with; tells whether there is such a warning.
    pub async fn set_status(&self, id: &str, status: Status) -> Result<bool, StoreError> {
        let Ok(id) = Uuid::parse_str(id) else { return Ok(false) };
        let key = key(id);
        let change = doc::update::<Warning, StoreError, _>(&*self.store, &key, |warning| {
            warning.status = status;
            Ok(())
        });
        Ok(change.await?.is_some())
    }

    /// Removes a warning; tells whether there was one.
    pub async fn delete(&self, id: &str) -> Result<bool, StoreError> {
        let Ok(id) = Uuid::parse_str(id) else { return Ok(false) };
        let key = key(id);
        let outcome = self.store.txn(Txn::new().exists(key.clone()).delete(key)).await?;
        Ok(outcome.committed().is_some())
    }

    /// Removes the warnings of an object that is no more.
    pub async fn forget(&self, entity_url: &str) -> Result<(), StoreError> {
        for (id, _) in self.list().await?.into_iter().filter(|(_, warning)| warning.entity_url == entity_url) {
            self.delete(&id).await?;
        }
        Ok(())
    }

    /// Follows what falls short with networks, for as long as the daemon runs.
    pub async fn follow_networks(self, networks: Networks) {
        let mut told = networks.watch_warnings();
        // By network: project, URL and text.
        let mut standing: BTreeMap<String, (String, String, String)> = BTreeMap::new();
        loop {
            let now = told.borrow_and_update().clone();
            let gone: Vec<String> = standing.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
            for name in gone {
                if let Some((_, entity, _)) = standing.remove(&name) {
                    self.resolve(Kind::Network, &entity).await;
                }
            }
            for (name, text) in now {
                if standing.get(&name).is_some_and(|(.., told)| *told == text) {
                    continue;
                }
                // A network that could not be made has no project.
                let project = networks.project_of(&name).await.ok().flatten();
                let project = project.unwrap_or_else(|| DEFAULT_PROJECT.to_owned());
                let entity = url("/1.0/networks", &name, &project);
                self.raise(Kind::Network, &project, &entity, &text).await;
                standing.insert(name, (project, entity, text));
            }
            if told.changed().await.is_err() {
                return;
            }
        }
    }

    /// Follows the troubles of instances, for as long as the daemon runs.
    pub async fn follow_instances(self, mut troubles: broadcast::Receiver<Trouble>) {
        loop {
            match troubles.recv().await {
                Ok(Trouble { kind, project, name, message }) => {
                    let kind = match kind {
                        TroubleKind::Autostart => Kind::Autostart,
                        TroubleKind::Leftover => Kind::Leftover,
                    };
                    self.raise(kind, &project, &url("/1.0/instances", &name, &project), &message).await;
                }
                Err(RecvError::Lagged(lost)) => tracing::warn!(lost, "troubles came faster than they could be kept"),
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Takes up what the storage pools say at the daemon's start, when they are opened.
    pub async fn take_up_pools(&self, pools: &Pools) -> Result<(), StorageError> {
        for pool in pools.list().await? {
            let entity = url("/1.0/storage-pools", &pool.name, DEFAULT_PROJECT);
            match &pool.problem {
                Some(problem) => self.raise(Kind::Pool, DEFAULT_PROJECT, &entity, problem).await,
                None => self.resolve(Kind::Pool, &entity).await,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_store::mem::MemStore;

    #[tokio::test]
    async fn a_warning_lives() {
        let warnings = Warnings::new(Arc::new(MemStore::new()));
        let raise = |message: &'static str| warnings.raise(Kind::Leftover, "p", "/1.0/instances/c1?project=p", message);
        raise("one").await;
        raise("two").await;
        let list = warnings.list().await.unwrap();
        let [(id, warning)] = &list[..] else { panic!("{list:?}") };
        assert_eq!((warning.count, warning.message.as_str(), warning.status), (2, "two", Status::New));
        assert!(warnings.set_status(id, Status::Acknowledged).await.unwrap());
        raise("three").await;
        assert_eq!(warnings.get(id).await.unwrap().unwrap().status, Status::Acknowledged, "it is known already");
        warnings.resolve_all(Kind::Leftover).await.unwrap();
        assert_eq!(warnings.get(id).await.unwrap().unwrap().status, Status::Resolved);
        raise("four").await;
        assert_eq!(warnings.get(id).await.unwrap().unwrap().status, Status::New, "it is back");
        assert!(!warnings.set_status("nonsense", Status::New).await.unwrap());
        assert!(warnings.delete(id).await.unwrap() && !warnings.delete(id).await.unwrap());
        raise("five").await;
        warnings.forget("/1.0/instances/c1?project=p").await.unwrap();
        assert!(warnings.list().await.unwrap().is_empty());
    }
}
