//! One suite for all drivers, and random transactions compared with the model.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use berth_store::mem::MemStore;
use berth_store::sqlite::SqliteStore;
use berth_store::{Cond, Event, Key, Limits, Outcome, Rev, Store, StoreError, Txn, WatchItem};
use futures::StreamExt;
use proptest::prelude::*;

type Dyn = Arc<dyn Store>;

/// Runs a test on every driver.
async fn on_all<F: Future<Output = ()>>(test: impl Fn(Dyn) -> F) {
    test(Arc::new(MemStore::new())).await;
    let dir = tempfile::tempdir().unwrap();
    test(Arc::new(SqliteStore::open(&dir.path().join("store")).await.unwrap())).await;
}

fn key(name: &str) -> Key {
    Key::new(&["t", name])
}

async fn put(store: &Dyn, name: &str, value: &'static str) -> Rev {
    store.txn(Txn::new().put(key(name), value)).await.unwrap().committed().unwrap()
}

async fn next<S: futures::Stream<Item = WatchItem> + Unpin>(stream: &mut S) -> Option<WatchItem> {
    tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("the watch says nothing")
}

/// The next batch as (revision, keys put, keys deleted).
async fn batch<S: futures::Stream<Item = WatchItem> + Unpin>(stream: &mut S) -> (Rev, Vec<String>, Vec<String>) {
    loop {
        match next(stream).await {
            Some(WatchItem::Progress { .. }) => {}
            Some(WatchItem::Batch { rev, events }) => {
                let (mut puts, mut deletes) = (Vec::new(), Vec::new());
                for event in events {
                    match event {
                        Event::Put(kv) => {
                            assert_eq!(kv.mod_rev, rev);
                            puts.push(kv.key.name());
                        }
                        Event::Delete { key, rev: at } => {
                            assert_eq!(at, rev);
                            deletes.push(key.name());
                        }
                    }
                }
                return (rev, puts, deletes);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[tokio::test]
async fn keys_have_their_history() {
    on_all(|store| async move {
        assert_eq!(store.get(&key("a")).await.unwrap(), None);
        let first = put(&store, "a", "1").await;
        let second = put(&store, "a", "2").await;
        assert_eq!((first, second), (1, 2));
        let kv = store.get(&key("a")).await.unwrap().unwrap();
        assert_eq!((kv.value.as_ref(), kv.create_rev, kv.mod_rev), (&b"2"[..], first, second));
        store.txn(Txn::new().delete(key("a"))).await.unwrap();
        assert_eq!(store.get(&key("a")).await.unwrap(), None);
        let again = put(&store, "a", "3").await;
        assert_eq!(store.get(&key("a")).await.unwrap().unwrap().create_rev, again);
        assert_eq!(store.health().await.rev, again);
    })
    .await;
}

#[tokio::test]
async fn transactions_are_all_or_nothing() {
    on_all(|store| async move {
        let rev = put(&store, "a", "1").await;
        let refused = [
            Cond::Absent(key("a")),
            Cond::Exists(key("b")),
            Cond::ModRev(key("a"), rev + 1),
            Cond::CreateRev(key("a"), rev + 1),
            Cond::ModRev(key("b"), 0),
        ];
        for cond in refused {
            let txn = Txn::new().exists(key("a")).when(cond).put(key("c"), "x").delete(key("a"));
            let Outcome::Conflict { current } = store.txn(txn).await.unwrap() else { panic!("no conflict") };
            assert_eq!(current.len(), 2);
            assert_eq!(current[0].as_ref().unwrap().mod_rev, rev);
        }
        assert_eq!(store.range(&Key::root()).await.unwrap().len(), 1);
        let txn = Txn::new().mod_rev(key("a"), rev).create_rev(key("a"), rev).absent(key("c"));
        let txn = txn.put(key("c"), "x").delete(key("a"));
        assert_eq!(store.txn(txn).await.unwrap(), Outcome::Committed { rev: rev + 1 });
        assert_eq!(store.get(&key("c")).await.unwrap().unwrap().mod_rev, rev + 1);
    })
    .await;
}

#[tokio::test]
async fn what_changes_nothing_has_no_revision() {
    on_all(|store| async move {
        let rev = put(&store, "a", "1").await;
        assert_eq!(store.txn(Txn::new().delete(key("b"))).await.unwrap(), Outcome::Committed { rev });
        assert_eq!(store.txn(Txn::new().exists(key("a"))).await.unwrap(), Outcome::Committed { rev });
    })
    .await;
}

#[tokio::test]
async fn prefixes_are_whole_segments() {
    on_all(|store| async move {
        for segments in [&["i", "de", "x"][..], &["i", "de"], &["i", "default", "y"], &["i", "de", "a/b"], &["j"]] {
            store.txn(Txn::new().put(Key::new(segments), "")).await.unwrap();
        }
        let snapshot = store.snapshot(&Key::new(&["i", "de"])).await.unwrap();
        let names: Vec<String> = snapshot.kvs.iter().map(|kv| kv.key.to_string()).collect();
        assert_eq!((names, snapshot.rev), (vec!["i/de".into(), "i/de/a%2Fb".into(), "i/de/x".into()], 5));
        assert_eq!(store.range(&Key::root()).await.unwrap().len(), 5);
    })
    .await;
}

#[tokio::test]
async fn limits_are_the_same() {
    on_all(|store| async move {
        let limits = store.limits();
        assert_eq!(limits, Limits::STANDARD);
        let refused = |txn: Txn| {
            let store = store.clone();
            async move { assert!(matches!(store.txn(txn).await, Err(StoreError::Refused(_)))) }
        };
        let many = |n: usize| (0..n).fold(Txn::new(), |txn, i| txn.put(key(&i.to_string()), "x"));
        refused(many(limits.max_ops + 1)).await;
        refused((0..=limits.max_ops).fold(Txn::new(), |txn, i| txn.absent(key(&i.to_string())))).await;
        refused(Txn::new().put(key("big"), vec![0; limits.max_value + 1])).await;
        let half = vec![0; limits.max_value];
        refused(Txn::new().put(key("b1"), half.clone()).put(key("b2"), half.clone()).put(key("b3"), "x")).await;
        refused(Txn::new().put(key(&"x".repeat(limits.max_key)), "")).await;
        refused(Txn::new().put(Key::root(), "")).await;
        refused(Txn::new().put(key("a"), "").delete(key("a"))).await;
        assert_eq!(store.range(&Key::root()).await.unwrap(), vec![]);
        store.txn(many(limits.max_ops)).await.unwrap();
        store.txn(Txn::new().put(key("half"), half)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn watches_follow_and_resume() {
    on_all(|store| async move {
        let start = put(&store, "a", "1").await;
        let mut watch = store.watch(&Key::new(&["t"]), start).await.unwrap();
        store.txn(Txn::new().put(Key::new(&["other"]), "x")).await.unwrap();
        assert_eq!(next(&mut watch).await, Some(WatchItem::Progress { rev: start + 1 }));
        store.txn(Txn::new().put(key("b"), "x").put(Key::new(&["other"]), "y").delete(key("a"))).await.unwrap();
        let expected = (start + 2, vec!["b".to_owned()], vec!["a".to_owned()]);
        assert_eq!(batch(&mut watch).await, expected);
        let mut late = store.watch(&Key::new(&["t"]), 0).await.unwrap();
        assert_eq!(batch(&mut late).await, (start, vec!["a".to_owned()], vec![]));
        assert_eq!(batch(&mut late).await, expected);
        drop(store);
        assert_eq!(next(&mut late).await.filter(|item| !matches!(item, WatchItem::Progress { .. })), None);
    })
    .await;
}

#[tokio::test]
async fn compaction_asks_for_a_new_list() {
    on_all(|store| async move {
        for name in ["a", "b", "c", "d"] {
            put(&store, name, "x").await;
        }
        store.compact(2).await.unwrap();
        let mut gone = store.watch(&Key::root(), 1).await.unwrap();
        assert_eq!(next(&mut gone).await, Some(WatchItem::Resync));
        assert_eq!(next(&mut gone).await, None);
        let mut kept = store.watch(&Key::root(), 2).await.unwrap();
        assert_eq!(batch(&mut kept).await.1, ["c"]);
        let mut future = store.watch(&Key::root(), 99).await.unwrap();
        assert_eq!(next(&mut future).await, Some(WatchItem::Resync));
        store.compact(Rev::MAX).await.unwrap();
        assert_eq!(store.range(&Key::root()).await.unwrap().len(), 4);
    })
    .await;
}

#[tokio::test]
async fn long_histories_arrive_whole() {
    on_all(|store| async move {
        let tasks = (0..1500).map(|i| {
            let store = store.clone();
            tokio::spawn(async move { put(&store, &format!("k{i}"), "x").await })
        });
        let mut revs: Vec<Rev> = futures::future::join_all(tasks).await.into_iter().map(|rev| rev.unwrap()).collect();
        revs.sort_unstable();
        assert_eq!(revs, (1..=1500).collect::<Vec<Rev>>());
        let mut watch = store.watch(&Key::root(), 0).await.unwrap();
        for expected in 1..=1500 {
            assert_eq!(batch(&mut watch).await.0, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn leases_take_their_keys_along() {
    on_all(|store| async move {
        let lease = store.lease(Duration::from_millis(1)).await.unwrap();
        let id = lease.id();
        store
            .txn(Txn::new().put_leased(key("a"), "", id).put_leased(key("b"), "", id).put(key("c"), ""))
            .await
            .unwrap();
        assert_eq!(store.get(&key("a")).await.unwrap().unwrap().lease, Some(id));
        // Written without the lease, so it is free of it.
        let rev = put(&store, "b", "").await;
        let mut watch = store.watch(&Key::root(), rev).await.unwrap();
        drop(lease);
        assert_eq!(batch(&mut watch).await, (rev + 1, vec![], vec!["a".to_owned()]));
        let late = store.txn(Txn::new().put_leased(key("d"), "", id)).await;
        assert!(matches!(late, Err(StoreError::LeaseGone(gone)) if gone == id));
        assert_eq!(store.range(&Key::root()).await.unwrap().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn leases_are_revoked_at_once_and_lost_with_the_store() {
    on_all(|store| async move {
        let held = store.lease(Duration::from_secs(3600)).await.unwrap();
        let lease = store.lease(Duration::from_secs(3600)).await.unwrap();
        store.txn(Txn::new().put_leased(key("a"), "", lease.id())).await.unwrap();
        lease.revoke().await;
        assert_eq!(store.get(&key("a")).await.unwrap(), None);
        assert!(tokio::time::timeout(Duration::from_millis(20), held.lost()).await.is_err());
        drop(store);
        tokio::time::timeout(Duration::from_secs(20), held.lost()).await.unwrap();
    })
    .await;
}

/// One step of a random run.
#[derive(Clone, Debug)]
enum Step {
    Txn { conds: Vec<(u8, u8, u8)>, writes: BTreeMap<u8, Option<u8>> },
    Compact(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let conds = proptest::collection::vec((0..4u8, 0..6u8, 0..4u8), 0..3);
    let writes = proptest::collection::btree_map(0..6u8, proptest::option::of(any::<u8>()), 0..4);
    prop_oneof![
        20 => (conds, writes).prop_map(|(conds, writes)| Step::Txn { conds, writes }),
        1 => any::<u8>().prop_map(Step::Compact),
    ]
}

/// Turns a step into a transaction; revisions are taken from what is there, give or take a little.
async fn txn_of(model: &MemStore, conds: &[(u8, u8, u8)], writes: &BTreeMap<u8, Option<u8>>) -> Txn {
    let mut txn = Txn::new();
    for (kind, name, off) in conds {
        let key = key(&name.to_string());
        let kv = model.get(&key).await.unwrap();
        let off = u64::from(*off == 3);
        txn = match kind {
            0 => txn.absent(key),
            1 => txn.exists(key),
            2 => txn.mod_rev(key, kv.map_or(0, |kv| kv.mod_rev) + off),
            _ => txn.create_rev(key, kv.map_or(0, |kv| kv.create_rev) + off),
        };
    }
    writes.iter().fold(txn, |txn, (name, value)| match value {
        Some(value) => txn.put(key(&name.to_string()), vec![*value]),
        None => txn.delete(key(&name.to_string())),
    })
}

async fn history(store: &dyn Store, upto: Rev) -> Vec<WatchItem> {
    let mut watch = store.watch(&Key::root(), 0).await.unwrap();
    let mut items = Vec::new();
    if upto == 0 {
        return items;
    }
    loop {
        let item = next(&mut watch).await.unwrap();
        let end = match &item {
            WatchItem::Batch { rev, .. } => *rev >= upto,
            WatchItem::Progress { .. } => continue,
            WatchItem::Resync => true,
        };
        items.push(item);
        if end {
            break;
        }
    }
    items
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn sqlite_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..40), reopen in 0..40usize) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let model = MemStore::new();
            let mut store = SqliteStore::open(dir.path()).await.unwrap();
            for (i, step) in steps.iter().enumerate() {
                if i == reopen {
                    drop(store);
                    store = SqliteStore::open(dir.path()).await.unwrap();
                }
                match step {
                    Step::Txn { conds, writes } => {
                        let txn = txn_of(&model, conds, writes).await;
                        assert_eq!(store.txn(txn.clone()).await.unwrap(), model.txn(txn).await.unwrap());
                    }
                    Step::Compact(before) => {
                        store.compact(u64::from(*before)).await.unwrap();
                        model.compact(u64::from(*before)).await.unwrap();
                    }
                }
                let expected = model.snapshot(&Key::root()).await.unwrap();
                assert_eq!(store.snapshot(&Key::root()).await.unwrap(), expected);
            }
            let rev = model.health().await.rev;
            assert_eq!(history(&store, rev).await, history(&model, rev).await);
        });
    }
}
