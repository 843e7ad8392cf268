//! What the owner of a rule adds to another crate's transactions, so that the rule holds when they commit.

use async_trait::async_trait;

use crate::{Outcome, Store, StoreError, Txn};

/// How often a transaction is tried again when only the admission's conditions failed. Each failure means that
/// somebody else made progress, and a rule that no longer admits the change ends it.
const ATTEMPTS: usize = 4096;

/// Decides whether an object may come into being or change, such as by a project's limits.
#[async_trait]
pub trait Admission: Send + Sync {
    /// Conditions and writes to add to the transaction, or [`StoreError::NotAdmitted`] with the reason.
    ///
    /// `bytes` is what the object occupies, 0 if it is of no matter. Asked anew for each attempt.
    async fn admit(&self, bytes: u64) -> Result<Txn, StoreError>;
}

/// Admits everything.
pub struct Always;

#[async_trait]
impl Admission for Always {
    async fn admit(&self, _bytes: u64) -> Result<Txn, StoreError> {
        Ok(Txn::new())
    }
}

/// Runs `txn` joined with what `admission` adds. A conflict is one of the conditions of `txn` itself, whose entries
/// come first in it; if only those of the admission failed, it is asked again.
pub async fn admitted(
    store: &dyn Store,
    txn: &Txn,
    admission: &dyn Admission,
    bytes: u64,
) -> Result<Outcome, StoreError> {
    for _ in 0..ATTEMPTS {
        let joined = txn.clone().and(admission.admit(bytes).await?);
        let outcome = store.txn(joined).await?;
        let Outcome::Conflict { current } = &outcome else { return Ok(outcome) };
        if !txn.when.iter().zip(current).all(|(cond, current)| cond.holds(current.as_ref())) {
            return Ok(outcome);
        }
    }
    let key = txn.then.first().map(|write| write.key().clone()).unwrap_or_else(crate::Key::root);
    Err(StoreError::Contended(key))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::Key;
    use crate::mem::MemStore;

    /// At most `limit` keys below `n`, counted by whoever asks and fenced by `fence`.
    struct AtMost {
        store: Arc<MemStore>,
        limit: usize,
        asked: AtomicUsize,
    }

    #[async_trait]
    impl Admission for AtMost {
        async fn admit(&self, _: u64) -> Result<Txn, StoreError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let fence = Key::new(&["fence"]);
            let seen = self.store.get(&fence).await?;
            // Lets the others read the same.
            tokio::task::yield_now().await;
            if self.store.range(&Key::new(&["n"])).await?.len() >= self.limit {
                return Err(StoreError::NotAdmitted("full".to_owned()));
            }
            let txn = match seen {
                Some(kv) => Txn::new().mod_rev(fence.clone(), kv.mod_rev),
                None => Txn::new().absent(fence.clone()),
            };
            Ok(txn.put(fence, "x"))
        }
    }

    #[tokio::test]
    async fn racing_transactions_do_not_exceed_a_limit() {
        let store = Arc::new(MemStore::new());
        let admission = Arc::new(AtMost { store: store.clone(), limit: 5, asked: AtomicUsize::new(0) });
        let tasks: Vec<_> = (0..20)
            .map(|i| {
                let (store, admission) = (store.clone(), admission.clone());
                tokio::spawn(async move {
                    let key = Key::new(&["n", &i.to_string()]);
                    admitted(&*store, &Txn::new().absent(key.clone()).put(key, "x"), &*admission, 0).await
                })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            match task.await.unwrap() {
                Ok(Outcome::Committed { .. }) => done += 1,
                Err(StoreError::NotAdmitted(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(done, 5);
        assert!(admission.asked.load(Ordering::Relaxed) > 20, "some had to ask again");
    }

    #[tokio::test]
    async fn a_conflict_of_ones_own_is_told() {
        let store = MemStore::new();
        let key = Key::new(&["a"]);
        let txn = Txn::new().absent(key.clone()).put(key, "x");
        assert!(admitted(&store, &txn, &Always, 0).await.unwrap().committed().is_some());
        assert!(admitted(&store, &txn, &Always, 0).await.unwrap().committed().is_none());
    }
}
