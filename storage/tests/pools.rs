//! Pools and volumes in a temporary directory.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use berth_storage::{Config, Pools, StorageError, VolumeKind, VolumeRef};
use berth_store::ErrorKind;
use berth_store::mem::MemStore;

use VolumeKind::{Container, ContainerSnapshot, Custom, VirtualMachine};

struct Bench {
    dir: tempfile::TempDir,
    store: Arc<MemStore>,
    pools: Pools,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(MemStore::new());
    let pools = Pools::open(store.clone(), dir.path().to_owned()).await.unwrap();
    Bench { dir, store, pools }
}

async fn volume(pools: &Pools, kind: VolumeKind, name: &str) -> std::path::PathBuf {
    let pending = pools.prepare("default", kind, name).await.unwrap();
    std::fs::write(pending.path().join("file"), name).unwrap();
    pending.commit().await.unwrap()
}

/// Whether there is nothing in the directory once what was removed is gone.
async fn gone(pools: &Pools, path: &Path) -> bool {
    pools.settle().await;
    std::fs::read_dir(path).unwrap().next().is_none()
}

#[tokio::test]
async fn the_first_start_makes_a_pool_and_later_ones_do_not() {
    let bench = bench().await;
    let pool = bench.pools.get("default").await.unwrap();
    assert_eq!((pool.driver.as_str(), pool.status.as_str()), ("dir", "Created"));
    let root = bench.dir.path().join("storage-pools/default");
    assert_eq!(pool.config["source"], root.to_str().unwrap());
    for dir in [root.clone(), root.join("containers"), root.join("virtual-machines"), root.join("custom")] {
        assert_eq!(std::fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o711);
    }
    let resources = bench.pools.resources("default").await.unwrap();
    assert!(resources.total >= resources.used && resources.total > 0);
    bench.pools.delete_pool("default").await.unwrap();
    assert!(!root.exists());
    let again = Pools::open(bench.store.clone(), bench.dir.path().to_owned()).await.unwrap();
    assert_eq!(again.list().await.unwrap(), vec![]);
}

#[tokio::test]
async fn volumes_live_their_life() {
    let Bench { dir, pools, .. } = bench().await;
    let path = volume(&pools, Container, "c1").await;
    assert_eq!(path, dir.path().join("storage-pools/default/containers/c1"));
    assert_eq!(pools.path("default", Container, "c1").await.unwrap(), path);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o711);
    assert!(pools.usage("default", Container, "c1").await.unwrap() > 0);
    // The kinds are apart.
    assert!(matches!(pools.path("default", Custom, "c1").await, Err(StorageError::VolumeNotFound { .. })));
    volume(&pools, VirtualMachine, "c1").await;
    pools.rename("default", Container, "c1", "c2").await.unwrap();
    assert_eq!(pools.volumes("default", Container).await.unwrap(), ["c2"]);
    let error = pools.delete_pool("default").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    pools.delete("default", Container, "c2").await.unwrap();
    assert!(pools.volumes("default", Container).await.unwrap().is_empty());
    assert_eq!(pools.delete("default", Container, "c2").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(gone(&pools, &dir.path().join("storage-pools/default/.trash")).await);
}

#[tokio::test]
async fn nothing_is_replaced() {
    let Bench { dir, pools, .. } = bench().await;
    let early = pools.prepare("default", Container, "c1").await.unwrap();
    let path = volume(&pools, Container, "c1").await;
    assert_eq!(pools.prepare("default", Container, "c1").await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(early.commit().await.unwrap_err().kind(), ErrorKind::Conflict);
    volume(&pools, Container, "c2").await;
    assert_eq!(pools.rename("default", Container, "c2", "c1").await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "c1");
    assert!(gone(&pools, &dir.path().join("storage-pools/default/.pending")).await);
}

#[tokio::test]
async fn unfinished_volumes_vanish() {
    let Bench { dir, store, pools } = bench().await;
    let root = dir.path().join("storage-pools/default");
    let dropped = pools.prepare("default", Container, "c1").await.unwrap();
    drop(dropped);
    assert!(gone(&pools, &root.join(".pending")).await && gone(&pools, &root.join(".trash")).await);
    // One that its process did not live to drop.
    let left = pools.prepare("default", Container, "c1").await.unwrap();
    std::fs::create_dir_all(left.path().join("rootfs/usr")).unwrap();
    std::mem::forget(left);
    std::fs::create_dir_all(root.join(".trash/old/deep")).unwrap();
    drop(pools);
    let again = Pools::open(store, dir.path().to_owned()).await.unwrap();
    assert!(gone(&again, &root.join(".pending")).await && gone(&again, &root.join(".trash")).await);
    volume(&again, Container, "c1").await;
}

#[tokio::test]
async fn bad_requests_are_refused_by_name() {
    let Bench { dir, pools, .. } = bench().await;
    for name in ["", ".", "..", ".pending", "a/b", "../x", "a\0b", &"x".repeat(256)] {
        assert!(matches!(pools.prepare("default", Container, name).await, Err(StorageError::BadName(_))), "{name:?}");
        assert!(matches!(pools.create(name, "dir", "", Config::new()).await, Err(StorageError::BadName(_))));
    }
    let config = |key: &str, value: &str| Config::from([(key.to_owned(), value.to_owned())]);
    let text = pools.create("p", "zfs2", "", Config::new()).await.unwrap_err().to_string();
    assert!(text.contains("zfs2") && text.contains("dir"));
    let text = pools.create("p", "dir", "", config("sorce", "/x")).await.unwrap_err().to_string();
    assert!(text.contains("did you mean \"source\"?"), "{text}");
    for source in ["relative", "/nonexistent/place", dir.path().to_str().unwrap()] {
        let error = pools.create("p", "dir", "", config("source", source)).await.unwrap_err();
        assert!(matches!(error, StorageError::BadValue { .. }), "{error}");
    }
    assert_eq!(pools.create("default", "dir", "", Config::new()).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(pools.get("p").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(pools.prepare("p", Container, "c").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn pools_elsewhere_and_updates() {
    let Bench { dir, store, pools } = bench().await;
    let place = dir.path().join("elsewhere");
    std::fs::create_dir(&place).unwrap();
    let config = Config::from([("source".to_owned(), place.to_str().unwrap().to_owned())]);
    let pool = pools.create("other", "dir", "first", config).await.unwrap();
    let mine = Config::from([("user.owner".to_owned(), "me".to_owned())]);
    let changed = pools.update("other", "second", mine.clone(), Some(pool.mod_rev)).await.unwrap();
    assert_eq!((changed.description.as_str(), changed.config.len()), ("second", 2));
    let stale = pools.update("other", "third", mine, Some(pool.mod_rev)).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict);
    // Gone at the next start, as a disk that is not mounted.
    std::fs::rename(&place, dir.path().join("away")).unwrap();
    drop(pools);
    let pools = Pools::open(store.clone(), dir.path().to_owned()).await.unwrap();
    assert_eq!(pools.get("other").await.unwrap().status, "Unavailable");
    assert!(pools.prepare("other", Container, "c").await.unwrap_err().to_string().contains("mount"));
    assert!(!place.exists());
    std::fs::rename(dir.path().join("away"), &place).unwrap();
    let pools = Pools::open(store, dir.path().to_owned()).await.unwrap();
    assert_eq!(pools.get("other").await.unwrap().status, "Created");
    pools.delete_pool("other").await.unwrap();
    assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0);
}

fn reference(pool: &str, kind: VolumeKind, name: &str) -> VolumeRef {
    VolumeRef { pool: pool.to_owned(), kind, name: name.to_owned() }
}

#[tokio::test]
async fn volumes_are_copied_within_and_between_pools() {
    let Bench { dir, pools, .. } = bench().await;
    volume(&pools, Container, "c1").await;
    pools.create("other", "dir", "", Config::new()).await.unwrap();
    let from = reference("default", Container, "c1");
    for to in [reference("default", ContainerSnapshot, "s1"), reference("other", Container, "c1")] {
        let pending = pools.copy(&from, &to, Arc::new(|_| {})).await.unwrap();
        let path = pending.commit().await.unwrap();
        assert_eq!(path, pools.path(&to.pool, to.kind, &to.name).await.unwrap());
        assert_eq!(std::fs::read_to_string(path.join("file")).unwrap(), "c1");
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o711);
        let error = pools.copy(&from, &to, Arc::new(|_| {})).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    let gone = reference("default", Container, "gone");
    let error = pools.copy(&gone, &reference("other", Container, "x"), Arc::new(|_| {})).await.unwrap_err();
    assert!(matches!(error, StorageError::VolumeNotFound { .. }), "{error}");
    for pool in ["default", "other"] {
        assert!(gone_from(&pools, &dir, pool).await);
    }
    assert!(matches!(pools.delete_pool("other").await.unwrap_err(), StorageError::InUse { .. }));
}

/// Whether a pool holds nothing half-made.
async fn gone_from(pools: &Pools, dir: &tempfile::TempDir, pool: &str) -> bool {
    gone(pools, &dir.path().join("storage-pools").join(pool).join(".pending")).await
}

#[tokio::test]
async fn a_copy_that_nobody_waits_for_leaves_nothing() {
    let Bench { dir, pools, .. } = bench().await;
    let path = volume(&pools, Container, "c1").await;
    for number in 0..3000 {
        std::fs::write(path.join(number.to_string()), "x").unwrap();
    }
    let (from, to) = (reference("default", Container, "c1"), reference("default", Container, "c2"));
    let pending = dir.path().join("storage-pools/default/.pending");
    // Polled once, so that it begins, and dropped.
    let copy = pools.copy(&from, &to, Arc::new(|_| {}));
    assert!(futures_once(copy).await.is_none(), "it takes a while");
    // The same thread pool runs this after the copy has ended.
    while std::fs::read_dir(&pending).unwrap().next().is_some() {
        tokio::task::yield_now().await;
        pools.settle().await;
    }
    assert_eq!(pools.volumes("default", Container).await.unwrap(), ["c1"]);
}

/// Polls a future once and drops it.
async fn futures_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
