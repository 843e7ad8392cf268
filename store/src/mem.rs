//! A store in memory: for tests, and the model that the other drivers are compared with.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::watch;

use crate::watch::{Batch, Chunk, Event, History, Recent, follow, resync};
use crate::{Health, Key, Kv, Lease, LeaseId, Outcome, Rev, Snapshot, Store, StoreError, Txn, WatchItem, Write, check};

/// Revisions that a watch can go back.
const KEEP: usize = 10_000;

/// A store in memory. Nothing in it outlives it.
#[derive(Debug)]
pub struct MemStore {
    shared: Arc<Shared>,
    open: watch::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    recent: Recent,
}

#[derive(Debug, Default)]
struct State {
    rev: Rev,
    kvs: BTreeMap<Key, Kv>,
    leases: HashSet<LeaseId>,
}

impl MemStore {
    /// An empty store.
    pub fn new() -> MemStore {
        let shared = Shared { state: Mutex::default(), recent: Recent::new(0, KEEP) };
        MemStore { shared: Arc::new(shared), open: watch::Sender::new(()) }
    }
}

impl Default for MemStore {
    fn default() -> Self {
        MemStore::new()
    }
}

impl Drop for MemStore {
    fn drop(&mut self) {
        self.shared.recent.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the writes as the next revision and tells the watchers, all under the lock so that the order is the same
    /// for both.
    fn apply(&self, state: &mut State, writes: Vec<Write>) -> Rev {
        let rev = state.rev + 1;
        let events: Vec<Event> = writes.into_iter().filter_map(|write| state.apply(rev, write)).collect();
        if events.is_empty() {
            return state.rev;
        }
        state.rev = rev;
        self.recent.publish(vec![Batch { rev, events: events.into() }]);
        rev
    }

    fn revoke(&self, id: LeaseId) {
        let mut state = self.lock();
        state.leases.remove(&id);
        let held = state.kvs.values().filter(|kv| kv.lease == Some(id));
        let writes = held.map(|kv| Write::Delete(kv.key.clone())).collect();
        self.apply(&mut state, writes);
    }
}

impl State {
    fn apply(&mut self, rev: Rev, write: Write) -> Option<Event> {
        match write {
            Write::Put { key, value, lease } => {
                let create_rev = self.kvs.get(&key).map_or(rev, |kv| kv.create_rev);
                let kv = Kv { key: key.clone(), value, create_rev, mod_rev: rev, lease };
                self.kvs.insert(key, kv.clone());
                Some(Event::Put(kv))
            }
            Write::Delete(key) => self.kvs.remove(&key).map(|kv| Event::Delete { key: kv.key, rev }),
        }
    }
}

#[async_trait]
impl History for Shared {
    fn recent(&self) -> &Recent {
        &self.recent
    }

    async fn read(&self, after: Rev) -> Result<Chunk, StoreError> {
        Ok(self.recent.read(after))
    }
}

#[async_trait]
impl Store for MemStore {
    async fn get(&self, key: &Key) -> Result<Option<Kv>, StoreError> {
        Ok(self.shared.lock().kvs.get(key).cloned())
    }

    async fn snapshot(&self, prefix: &Key) -> Result<Snapshot, StoreError> {
        let state = self.shared.lock();
        let kvs = state.kvs.values().filter(|kv| prefix.covers(&kv.key)).cloned().collect();
        Ok(Snapshot { kvs, rev: state.rev })
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError> {
        check::check(&txn, &self.limits())?;
        let mut state = self.shared.lock();
        if txn.when.iter().any(|cond| !cond.holds(state.kvs.get(cond.key()))) {
            let current = txn.when.iter().map(|cond| state.kvs.get(cond.key()).cloned()).collect();
            return Ok(Outcome::Conflict { current });
        }
        for write in &txn.then {
            if let Write::Put { lease: Some(id), .. } = write
                && !state.leases.contains(id)
            {
                return Err(StoreError::LeaseGone(*id));
            }
        }
        Ok(Outcome::Committed { rev: self.shared.apply(&mut state, txn.then) })
    }

    async fn watch(&self, prefix: &Key, after: Rev) -> Result<BoxStream<'static, WatchItem>, StoreError> {
        if after > self.shared.recent.rev() {
            return Ok(resync());
        }
        Ok(follow(self.shared.clone(), prefix.clone(), after))
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let id = LeaseId::random();
        self.shared.lock().leases.insert(id);
        let (lease, end) = Lease::pair(id, ttl);
        let shared = Arc::downgrade(&self.shared);
        tokio::spawn(end.serve(self.open.subscribe(), move || async move {
            if let Some(shared) = shared.upgrade() {
                shared.revoke(id);
            }
        }));
        Ok(lease)
    }

    async fn compact(&self, before: Rev) -> Result<(), StoreError> {
        self.shared.recent.compact(before);
        Ok(())
    }

    async fn health(&self) -> Health {
        Health { driver: "mem", rev: self.shared.lock().rev, size: None, free: None, problem: None }
    }
}
