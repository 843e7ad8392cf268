//! The daemon's state: documents under keys, with a global revision, transactions, watches and leases.
//!
//! The model is etcd's, so that a cluster can run on etcd later: nothing above this crate may assume SQL, files or a
//! single process. Three properties matter to callers:
//!
//! - every committed transaction that changed something gets the next **revision**; a document knows the revision that
//!   created it and the one that changed it last, and a [`Txn`] can demand either (compare and swap over several keys);
//! - [`Store::watch`] resumes from any revision that has not been compacted away and says so when it has;
//! - keys under a [`Lease`] vanish when its holder does.
//!
//! [`open`] gives the default engine, SQLite in this process; [`mem::MemStore`] is for tests and is the model that the
//! other drivers are compared with. [`doc`] puts typed, versioned JSON documents on top.

mod admission;
mod check;
pub mod doc;
mod error;
mod key;
mod lease;
pub mod mem;
pub mod sqlite;
pub mod step;
mod txn;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use admission::{Admission, Always, admitted};
pub use error::{ErrorKind, StoreError};
pub use key::Key;
pub use lease::{Lease, LeaseId};
pub use txn::{Cond, Outcome, Txn, Write};
pub use watch::{Event, WatchItem};

/// A revision: global, strictly increasing, 0 for a store in which nothing was ever written.
pub type Rev = u64;

/// One key with its value and history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    /// The key.
    pub key: Key,
    /// The value as it was written.
    pub value: Bytes,
    /// Revision of the transaction that created the key.
    pub create_rev: Rev,
    /// Revision of the transaction that wrote the key last.
    pub mod_rev: Rev,
    /// Lease that the key falls with, if any.
    pub lease: Option<LeaseId>,
}

/// Everything at and below a prefix, at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The entries in the order of their keys.
    pub kvs: Vec<Kv>,
    /// The revision at which all of them held; a [`Store::watch`] after it misses nothing.
    pub rev: Rev,
}

/// Limits that all drivers enforce alike, chosen to be below those of every engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Conditions of a transaction, and likewise writes of a transaction.
    pub max_ops: usize,
    /// Bytes of a single value.
    pub max_value: usize,
    /// Bytes of all keys and values of a transaction together.
    pub max_txn: usize,
    /// Bytes of a key.
    pub max_key: usize,
}

impl Limits {
    /// The limits of every driver.
    pub const STANDARD: Limits = Limits { max_ops: 100, max_value: 512 * 1024, max_txn: 1024 * 1024, max_key: 1024 };
}

/// What [`Store::health`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Name of the driver.
    pub driver: &'static str,
    /// The current revision.
    pub rev: Rev,
    /// Bytes that the engine occupies, if it knows.
    pub size: Option<u64>,
    /// Bytes left for it, if it knows.
    pub free: Option<u64>,
    /// Why writes fail at present, if the latest one did.
    pub problem: Option<String>,
}

/// A store of documents.
///
/// Contract of a driver: `txn` is the only call that writes, is atomic and durable when it returns, and is never
/// half-done when it fails. A future that is dropped while it waits leaves its transaction either wholly done or not
/// done. All calls may be made at any time from any task. Prefixes are matched by whole segments and include the key
/// that is spelled like the prefix; the root prefix matches everything.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The limits of a transaction.
    fn limits(&self) -> Limits {
        Limits::STANDARD
    }

    /// Reads one key.
    async fn get(&self, key: &Key) -> Result<Option<Kv>, StoreError>;

    /// Reads everything at and below `prefix` at a single revision.
    async fn snapshot(&self, prefix: &Key) -> Result<Snapshot, StoreError>;

    /// Like [`Store::snapshot`], for callers that do not go on to watch.
    async fn range(&self, prefix: &Key) -> Result<Vec<Kv>, StoreError> {
        Ok(self.snapshot(prefix).await?.kvs)
    }

    /// Runs a transaction: if all conditions hold, all writes are done, else none.
    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// Follows all changes at and below `prefix` with a revision greater than `after`, in order and without gaps.
    ///
    /// When those changes are no longer known the stream says [`WatchItem::Resync`] and ends.
    async fn watch(&self, prefix: &Key, after: Rev) -> Result<BoxStream<'static, WatchItem>, StoreError>;

    /// Takes a lease. It stays as long as the handle lives, and `ttl` longer if the handle is merely dropped.
    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Forgets the history up to and including `before`; the present values stay.
    async fn compact(&self, before: Rev) -> Result<(), StoreError>;

    /// How the store is doing.
    async fn health(&self) -> Health;
}

/// Opens the default engine, SQLite, in `dir/store`, and creates it if it is not there.
pub async fn open(dir: &Path) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(sqlite::SqliteStore::open(&dir.join("store")).await?))
}
