//! The pools: listed, made, changed and removed, and the way to their volumes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_store::doc::{self, Document, Versioned};
use berth_store::{Key, Store, Txn, step};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::{Config, bad_value};
use crate::copy::{CancelOnDrop, CopyProgress, Job};
use crate::driver::{Driver, DriverKind, Resources, Site};
use crate::error::StorageError;
use crate::reaper::Reaper;
use crate::volume::{PendingVolume, VolumeKind, VolumeRef, check_name};

/// The pool that is made at the first start.
const DEFAULT: &str = "default";

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Name of its driver.
    pub driver: String,
    /// What the user says about it.
    pub description: String,
    /// Its configuration.
    pub config: Config,
    /// `Created`, `Unavailable` when something keeps it from working, or `Pending` while it is made or removed.
    pub status: String,
    /// What keeps it from working.
    pub problem: Option<String>,
    /// Revision of its document.
    pub mod_rev: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PoolDoc {
    driver: String,
    description: String,
    config: Config,
    /// What tells it from all pools that ever were; of btrfs, the UUID of the file system.
    id: Uuid,
    phase: Phase,
}

/// How far a pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// It is being made or removed: what there is of it goes when the daemon starts.
    Unfinished,
    /// It can be used.
    Ready,
}

impl Document for PoolDoc {
    const KIND: &'static str = "storage pool";
    const VERSION: u32 = 2;

    /// Version 1 had neither id nor phase.
    fn upgrade(_version: u32, mut value: Value) -> Result<Value, String> {
        let object = value.as_object_mut().ok_or("it is not an object")?;
        object.insert("id".to_owned(), json!(Uuid::nil()));
        object.insert("phase".to_owned(), json!(Phase::Ready));
        Ok(value)
    }
}

/// At `cfg/storage`; written when the first start is done, so that a default pool that was deleted stays so.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Settings {}

impl Document for Settings {
    const KIND: &'static str = "storage settings";
    const VERSION: u32 = 1;
}

/// All pools. Clones share everything.
#[derive(Clone)]
pub struct Pools {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    dir: PathBuf,
    reaper: Reaper,
    /// A pool that could not be opened has the reason in place of its driver.
    open: Mutex<BTreeMap<String, Opened<String>>>,
}

type Opened<E = StorageError> = Result<Arc<dyn Driver>, E>;

fn key(name: &str) -> Key {
    Key::new(&["pool", name])
}

impl Pools {
    /// Takes up the pools; `dir` is the daemon's directory.
    ///
    /// At the first start the pool `default` is made. What earlier processes left half-made or half-removed goes. A
    /// pool that cannot be opened does not keep the others from working: its status tells, and what is wanted of it
    /// fails with the reason.
    pub async fn open(store: Arc<dyn Store>, dir: PathBuf) -> Result<Pools, StorageError> {
        let base = dir.join("storage-pools");
        let failed = |error: io::Error| StorageError::path("", &base)(error);
        make_base(&base).map_err(failed)?;
        let reaper = Reaper::start().map_err(failed)?;
        let pools = Pools { inner: Arc::new(Inner { store, dir, reaper, open: Mutex::default() }) };
        let inner = &pools.inner;
        for (key, found) in doc::list::<PoolDoc>(&*inner.store, &Key::new(&["pool"])).await? {
            let name = key.name();
            let opened = match found.doc.phase {
                Phase::Ready => inner.take_up(&name, &found.doc).await,
                Phase::Unfinished => match inner.remove(&name, &found.doc).await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = &opened {
                tracing::error!(pool = name, %error, "Cannot open a storage pool");
            }
            inner.lock().insert(name, opened.map_err(|error| error.to_string()));
        }
        let settings = Key::new(&["cfg", "storage"]);
        if doc::get::<Settings>(&*inner.store, &settings).await?.is_none() {
            match pools.create(DEFAULT, "dir", "", Config::new()).await {
                Ok(_) | Err(StorageError::PoolExists(_)) => {}
                Err(error) => return Err(error),
            }
            inner.store.txn(Txn::new().write(doc::put(settings, &Settings {}))).await?;
        }
        Ok(pools)
    }

    /// All pools.
    pub async fn list(&self) -> Result<Vec<Pool>, StorageError> {
        let found = doc::list::<PoolDoc>(&*self.inner.store, &Key::new(&["pool"])).await?;
        Ok(found.into_iter().map(|(key, found)| self.inner.view(key.name(), found.doc, found.mod_rev)).collect())
    }

    /// One pool.
    pub async fn get(&self, name: &str) -> Result<Pool, StorageError> {
        let found = doc::get::<PoolDoc>(&*self.inner.store, &key(name)).await?;
        let found = found.ok_or_else(|| StorageError::PoolNotFound(name.to_owned()))?;
        Ok(self.inner.view(name.to_owned(), found.doc, found.mod_rev))
    }

    /// Makes a pool.
    pub async fn create(
        &self,
        name: &str,
        driver: &str,
        description: &str,
        mut config: Config,
    ) -> Result<Pool, StorageError> {
        let inner = &self.inner;
        check_name(name)?;
        let kind = DriverKind::named(driver)?;
        kind.check(name, &config)?;
        let id = Uuid::new_v4();
        let site = inner.site(name, id);
        let exists = || StorageError::PoolExists(name.to_owned());
        if inner.store.get(&key(name)).await?.is_some() {
            // Its place is taken, which is no fault of the configuration.
            return Err(exists());
        }
        let completed = tokio::task::spawn_blocking(move || kind.complete(&site, &mut config).map(|()| config)).await;
        let config = completed.map_err(|error| StorageError::path(name, "")(io::Error::other(error)))??;
        let engine = kind.driver(inner.site(name, id), &config)?;
        let (driver, description) = (driver.to_owned(), description.to_owned());
        let mut pool = PoolDoc { driver, description, config, id, phase: Phase::Unfinished };
        // The document comes first: it keeps others off the name, and what a crash leaves is found by the next start.
        let txn = Txn::new().absent(key(name)).write(doc::put(key(name), &pool));
        let rev = inner.store.txn(txn).await?.committed().ok_or_else(exists)?;
        if let Err(error) =
            run(name, engine.clone(), |driver| driver.create().inspect(|()| step::done("pool made"))).await
        {
            match inner.remove(name, &pool).await {
                Ok(()) => {}
                Err(undo) => {
                    tracing::warn!(pool = name, %undo, "Cannot remove what there is of a storage pool that failed")
                }
            }
            return Err(error);
        }
        pool.phase = Phase::Ready;
        let txn = Txn::new().mod_rev(key(name), rev).write(doc::put(key(name), &pool));
        let rev = inner.store.txn(txn).await?.committed();
        let rev = rev.ok_or_else(|| StorageError::Contended(name.to_owned()))?;
        inner.lock().insert(name.to_owned(), Ok(engine));
        Ok(inner.view(name.to_owned(), pool, rev))
    }

    /// Changes a pool's description and configuration.
    ///
    /// `if_match` is the revision that the caller has seen, if the change is meant for that one only.
    pub async fn update(
        &self,
        name: &str,
        description: &str,
        mut config: Config,
        if_match: Option<u64>,
    ) -> Result<Pool, StorageError> {
        let inner = &self.inner;
        let present = inner.document(name).await?;
        if if_match.is_some_and(|rev| rev != present.mod_rev) {
            return Err(StorageError::Contended(name.to_owned()));
        }
        let rev = present.mod_rev;
        let present = present.doc;
        let kind = DriverKind::named(&present.driver)?;
        kind.check(name, &config)?;
        let source = present.config.get("source").cloned().unwrap_or_default();
        let wanted = config.entry("source".to_owned()).or_insert_with(|| source.clone());
        if *wanted != source {
            let reason = "it cannot be changed: make a new pool".to_owned();
            return Err(bad_value(name, "source", wanted, reason));
        }
        let engine = kind.driver(inner.site(name, present.id), &config)?;
        let open = inner.driver(name).is_ok();
        if open && present.config != config {
            let before = present.config.clone();
            run(name, engine.clone(), move |driver| driver.change(&before)).await?;
        }
        let pool = PoolDoc { description: description.to_owned(), config, ..present };
        let txn = Txn::new().mod_rev(key(name), rev).write(doc::put(key(name), &pool));
        let rev = inner.store.txn(txn).await?.committed();
        let rev = rev.ok_or_else(|| StorageError::Contended(name.to_owned()))?;
        if open {
            inner.lock().insert(name.to_owned(), Ok(engine));
        }
        Ok(inner.view(name.to_owned(), pool, rev))
    }

    /// Removes a pool, which must not hold volumes. The caller has seen to it that no profile speaks of it.
    pub async fn delete_pool(&self, name: &str) -> Result<(), StorageError> {
        let inner = &self.inner;
        let found = inner.document(name).await?;
        let owner = name.to_owned();
        let empty = move |driver: Arc<dyn Driver>| {
            for kind in VolumeKind::ALL {
                if let Some(volume) = driver.volumes(kind)?.into_iter().next() {
                    return Err(StorageError::InUse { pool: owner, kind, volume });
                }
            }
            Ok(())
        };
        let pool = PoolDoc { phase: Phase::Unfinished, ..found.doc };
        run(name, inner.engine(name, &pool)?, empty).await?;
        // From now on the pool goes, if not now, then at the next start.
        let txn = Txn::new().mod_rev(key(name), found.mod_rev).write(doc::put(key(name), &pool));
        inner.store.txn(txn).await?.committed().ok_or_else(|| StorageError::Contended(name.to_owned()))?;
        inner.lock().insert(name.to_owned(), Err("it is being removed".to_owned()));
        // Nothing of it may be in use any more.
        self.settle().await;
        inner.remove(name, &pool).await?;
        inner.lock().remove(name);
        Ok(())
    }

    /// Returns when the files of everything that was removed so far are gone.
    pub async fn settle(&self) {
        self.inner.reaper.settle().await;
    }

    /// Space of a pool.
    pub async fn resources(&self, name: &str) -> Result<Resources, StorageError> {
        run(name, self.inner.driver(name)?, |driver| driver.resources()).await
    }

    /// Begins a volume.
    pub async fn prepare(&self, pool: &str, kind: VolumeKind, volume: &str) -> Result<PendingVolume, StorageError> {
        check_name(volume)?;
        let driver = self.inner.driver(pool)?;
        let (pool_name, name) = (pool.to_owned(), volume.to_owned());
        run(pool, driver, move |driver| {
            if driver.find(kind, &name)?.is_some() {
                return Err(StorageError::VolumeExists { pool: pool_name, kind, volume: name });
            }
            let path = driver.prepare(kind)?;
            step::done("volume begun");
            Ok(PendingVolume::new(driver, kind, name, path))
        })
        .await
    }

    /// Begins a volume with the content of another, in the same pool or from another one. Nobody may change the source
    /// meanwhile. When the future is dropped, the copying ends.
    pub async fn copy(
        &self,
        from: &VolumeRef,
        to: &VolumeRef,
        progress: Arc<CopyProgress>,
    ) -> Result<PendingVolume, StorageError> {
        check_name(&from.name)?;
        let cancel = CancelOnDrop::default();
        let job = Job { cancelled: cancel.flag(), progress };
        let (source, target) = (self.inner.driver(&from.pool)?, self.inner.driver(&to.pool)?);
        let (from, kind, name) = (from.clone(), to.kind, to.name.clone());
        let same_pool = from.pool == to.pool;
        let pool = to.pool.clone();
        check_name(&name)?;
        run(&to.pool, target, move |target| {
            if target.find(kind, &name)?.is_some() {
                return Err(StorageError::VolumeExists { pool, kind, volume: name });
            }
            if same_pool {
                let path = target.duplicate(from.kind, &from.name, &job)?;
                step::done("volume duplicated");
                return Ok(PendingVolume::new(target, kind, name, path));
            }
            let there = source.find(from.kind, &from.name)?.ok_or(StorageError::VolumeNotFound {
                pool: from.pool,
                kind: from.kind,
                volume: from.name,
            })?;
            let pending = PendingVolume::new(target.clone(), kind, name, target.prepare(kind)?);
            job.fill(&there, pending.path()).map_err(StorageError::path(&pool, &there))?;
            step::done("volume filled");
            Ok(pending)
        })
        .await
    }

    /// Where a volume is.
    pub async fn path(&self, pool: &str, kind: VolumeKind, volume: &str) -> Result<PathBuf, StorageError> {
        check_name(volume)?;
        let name = volume.to_owned();
        let found = run(pool, self.inner.driver(pool)?, move |driver| driver.find(kind, &name)).await?;
        let (pool, volume) = (pool.to_owned(), volume.to_owned());
        found.ok_or(StorageError::VolumeNotFound { pool, kind, volume })
    }

    /// Names of a pool's volumes.
    pub async fn volumes(&self, pool: &str, kind: VolumeKind) -> Result<Vec<String>, StorageError> {
        run(pool, self.inner.driver(pool)?, move |driver| driver.volumes(kind)).await
    }

    /// Gives a volume another name.
    pub async fn rename(&self, pool: &str, kind: VolumeKind, old: &str, new: &str) -> Result<(), StorageError> {
        check_name(old)?;
        check_name(new)?;
        let (old, new) = (old.to_owned(), new.to_owned());
        run(pool, self.inner.driver(pool)?, move |driver| {
            driver.rename(kind, &old, &new).inspect(|()| step::done("volume renamed"))
        })
        .await
    }

    /// Removes a volume. Its name is free when this returns, its space soon after.
    pub async fn delete(&self, pool: &str, kind: VolumeKind, volume: &str) -> Result<(), StorageError> {
        check_name(volume)?;
        let name = volume.to_owned();
        run(pool, self.inner.driver(pool)?, move |driver| {
            driver.delete(kind, &name).inspect(|()| step::done("volume removed"))
        })
        .await
    }

    /// Sets how many bytes a volume may occupy, now and later; a pool of the driver `dir` limits nothing.
    pub async fn limit(
        &self,
        pool: &str,
        kind: VolumeKind,
        volume: &str,
        bytes: Option<u64>,
    ) -> Result<(), StorageError> {
        check_name(volume)?;
        let name = volume.to_owned();
        run(pool, self.inner.driver(pool)?, move |driver| driver.limit(kind, &name, bytes)).await
    }

    /// Bytes that a volume occupies.
    pub async fn usage(&self, pool: &str, kind: VolumeKind, volume: &str) -> Result<u64, StorageError> {
        check_name(volume)?;
        let name = volume.to_owned();
        run(pool, self.inner.driver(pool)?, move |driver| driver.usage(kind, &name)).await
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Opened<String>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver of an open pool.
    fn driver(&self, name: &str) -> Result<Arc<dyn Driver>, StorageError> {
        match self.lock().get(name) {
            Some(Ok(driver)) => Ok(driver.clone()),
            Some(Err(reason)) => Err(StorageError::path(name, self.dir.join("storage-pools").join(name))(
                io::Error::other(reason.clone()),
            )),
            None => Err(StorageError::PoolNotFound(name.to_owned())),
        }
    }

    fn site(&self, name: &str, id: Uuid) -> Site {
        Site { pool: name.to_owned(), id, base: self.dir.clone(), reaper: self.reaper.clone() }
    }

    async fn document(&self, name: &str) -> Result<Versioned<PoolDoc>, StorageError> {
        let found = doc::get::<PoolDoc>(&*self.store, &key(name)).await?;
        found.ok_or_else(|| StorageError::PoolNotFound(name.to_owned()))
    }

    /// A driver of a pool, whether that is open or not.
    fn engine(&self, name: &str, pool: &PoolDoc) -> Result<Arc<dyn Driver>, StorageError> {
        DriverKind::named(&pool.driver)?.driver(self.site(name, pool.id), &pool.config)
    }

    async fn take_up(&self, name: &str, pool: &PoolDoc) -> Opened {
        run(name, self.engine(name, pool)?, |driver| driver.open().map(|()| driver)).await
    }

    /// Removes what there is of an unfinished pool, and its document.
    async fn remove(&self, name: &str, pool: &PoolDoc) -> Result<(), StorageError> {
        run(name, self.engine(name, pool)?, |driver| driver.destroy().inspect(|()| step::done("pool removed"))).await?;
        self.store.txn(Txn::new().delete(key(name))).await?;
        Ok(())
    }

    fn view(&self, name: String, pool: PoolDoc, mod_rev: u64) -> Pool {
        let problem = self.lock().get(&name).and_then(|driver| driver.as_ref().err().cloned());
        let status = match (pool.phase, &problem) {
            (Phase::Unfinished, _) => "Pending",
            (Phase::Ready, None) => "Created",
            (Phase::Ready, Some(_)) => "Unavailable",
        };
        let status = status.to_owned();
        let PoolDoc { driver, description, config, .. } = pool;
        Pool { name, driver, description, config, status, problem, mod_rev }
    }
}

/// Runs a driver's work where it may block.
async fn run<T, F>(pool: &str, driver: Arc<dyn Driver>, work: F) -> Result<T, StorageError>
where
    T: Send + 'static,
    F: FnOnce(Arc<dyn Driver>) -> Result<T, StorageError> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(move || work(driver)).await;
    done.map_err(|error| StorageError::path(pool, "")(io::Error::other(error)))?
}

fn make_base(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711))
}
