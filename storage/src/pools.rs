//! The pools: listed, made, changed and removed, and the way to their volumes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_store::doc::{self, Document};
use berth_store::{Key, Store, Txn};
use serde::{Deserialize, Serialize};

use crate::copy::{CancelOnDrop, CopyProgress, Job};
use crate::driver::{self, Driver, Resources};
use crate::error::StorageError;
use crate::reaper::Reaper;
use crate::volume::{PendingVolume, VolumeKind, VolumeRef, check_name};

/// A pool's configuration, as clients see it.
pub type Config = BTreeMap<String, String>;

/// The pool that is made at the first start.
const DEFAULT: &str = "default";

/// Keys of all pools, besides `user.*`.
const KEYS: [&str; 1] = ["source"];

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
    /// `Created`, or `Unavailable` when something keeps it from working.
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
}

impl Document for PoolDoc {
    const KIND: &'static str = "storage pool";
    const VERSION: u32 = 1;
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
    open: Mutex<BTreeMap<String, Opened>>,
}

type Opened = Result<Arc<dyn Driver>, String>;

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
        let dir = dir.join("storage-pools");
        let failed = |error: io::Error| StorageError::path("", &dir)(error);
        make_base(&dir).map_err(failed)?;
        let reaper = Reaper::start().map_err(failed)?;
        let pools = Pools { inner: Arc::new(Inner { store, dir: dir.clone(), reaper, open: Mutex::default() }) };
        let inner = &pools.inner;
        for (key, found) in doc::list::<PoolDoc>(&*inner.store, &Key::new(&["pool"])).await? {
            let name = key.name();
            let opened = match inner.driver_for(&name, &found.doc.driver, &found.doc.config) {
                Ok(driver) => run(&name, driver, |driver| driver.open().map(|()| driver)).await,
                Err(error) => Err(error),
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
        check_config(name, &config)?;
        let own = inner.dir.join(name);
        let source = config.entry("source".to_owned()).or_default();
        if source.is_empty() {
            *source = own.to_string_lossy().into_owned();
        } else if Path::new(source) != own {
            check_source(name, source)?;
        }
        let engine = inner.driver_for(name, driver, &config)?;
        let pool = PoolDoc { driver: driver.to_owned(), description: description.to_owned(), config };
        // The document comes first: it keeps others off the name, and what a crash leaves is found by the next start.
        let txn = Txn::new().absent(key(name)).write(doc::put(key(name), &pool));
        let rev = inner.store.txn(txn).await?.committed().ok_or_else(|| StorageError::PoolExists(name.to_owned()))?;
        if let Err(error) = run(name, engine.clone(), |driver| driver.create()).await {
            if let Err(undo) = run(name, engine, |driver| driver.destroy()).await {
                tracing::warn!(pool = name, %undo, "Cannot remove what there is of a storage pool that failed");
            }
            inner.store.txn(Txn::new().mod_rev(key(name), rev).delete(key(name))).await?;
            return Err(error);
        }
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
        let present = self.get(name).await?;
        if if_match.is_some_and(|rev| rev != present.mod_rev) {
            return Err(StorageError::Contended(name.to_owned()));
        }
        check_config(name, &config)?;
        let source = present.config.get("source").cloned().unwrap_or_default();
        let wanted = config.entry("source".to_owned()).or_insert_with(|| source.clone());
        if *wanted != source {
            let reason = "it cannot be changed: make a new pool".to_owned();
            return Err(bad_value(name, "source", wanted, reason));
        }
        let pool = PoolDoc { driver: present.driver, description: description.to_owned(), config };
        let txn = Txn::new().mod_rev(key(name), present.mod_rev).write(doc::put(key(name), &pool));
        let rev = self.inner.store.txn(txn).await?.committed();
        let rev = rev.ok_or_else(|| StorageError::Contended(name.to_owned()))?;
        Ok(self.inner.view(name.to_owned(), pool, rev))
    }

    /// Removes a pool, which must not hold volumes. The caller has seen to it that no profile speaks of it.
    pub async fn delete_pool(&self, name: &str) -> Result<(), StorageError> {
        let pool = self.get(name).await?;
        let driver = self.inner.driver_for(name, &pool.driver, &pool.config)?;
        let checked = driver.clone();
        let owner = name.to_owned();
        let empty = move |driver: Arc<dyn Driver>| {
            for kind in VolumeKind::ALL {
                if let Some(volume) = driver.volumes(kind)?.into_iter().next() {
                    return Err(StorageError::InUse { pool: owner, kind, volume });
                }
            }
            Ok(())
        };
        run(name, checked, empty).await?;
        run(name, driver, |driver| driver.destroy()).await?;
        self.inner.store.txn(Txn::new().delete(key(name))).await?;
        self.inner.lock().remove(name);
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
            let path = driver.prepare()?;
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
                return Ok(PendingVolume::new(target, kind, name, path));
            }
            let there = source.find(from.kind, &from.name)?.ok_or(StorageError::VolumeNotFound {
                pool: from.pool,
                kind: from.kind,
                volume: from.name,
            })?;
            let pending = PendingVolume::new(target.clone(), kind, name, target.prepare()?);
            job.fill(&there, pending.path()).map_err(StorageError::path(&pool, &there))?;
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
        run(pool, self.inner.driver(pool)?, move |driver| driver.rename(kind, &old, &new)).await
    }

    /// Removes a volume. Its name is free when this returns, its space soon after.
    pub async fn delete(&self, pool: &str, kind: VolumeKind, volume: &str) -> Result<(), StorageError> {
        check_name(volume)?;
        let name = volume.to_owned();
        run(pool, self.inner.driver(pool)?, move |driver| driver.delete(kind, &name)).await
    }

    /// Bytes that a volume occupies.
    pub async fn usage(&self, pool: &str, kind: VolumeKind, volume: &str) -> Result<u64, StorageError> {
        check_name(volume)?;
        let name = volume.to_owned();
        run(pool, self.inner.driver(pool)?, move |driver| driver.usage(kind, &name)).await
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Opened>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver of an open pool.
    fn driver(&self, name: &str) -> Result<Arc<dyn Driver>, StorageError> {
        match self.lock().get(name) {
            Some(Ok(driver)) => Ok(driver.clone()),
            Some(Err(reason)) => Err(StorageError::path(name, self.dir.join(name))(io::Error::other(reason.clone()))),
            None => Err(StorageError::PoolNotFound(name.to_owned())),
        }
    }

    fn driver_for(&self, name: &str, driver: &str, config: &Config) -> Result<Arc<dyn Driver>, StorageError> {
        let own = self.dir.join(name);
        let root = config.get("source").map_or_else(|| own.clone(), PathBuf::from);
        let is_own = root == own;
        driver::driver(driver, name, root, is_own, &self.reaper)
    }

    fn view(&self, name: String, pool: PoolDoc, mod_rev: u64) -> Pool {
        let problem = self.lock().get(&name).and_then(|driver| driver.as_ref().err().cloned());
        let status = if problem.is_none() { "Created" } else { "Unavailable" }.to_owned();
        let PoolDoc { driver, description, config } = pool;
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

fn bad_value(pool: &str, key: &str, value: &str, reason: String) -> StorageError {
    StorageError::BadValue { pool: pool.to_owned(), key: key.to_owned(), value: value.to_owned(), reason }
}

fn check_config(pool: &str, config: &Config) -> Result<(), StorageError> {
    for key in config.keys() {
        if KEYS.contains(&key.as_str()) || key.strip_prefix("user.").is_some_and(|rest| !rest.is_empty()) {
            continue;
        }
        let near = KEYS.iter().find(|known| strsim::damerau_levenshtein(known, key) <= 3);
        let hint = match near {
            Some(known) => format!(": did you mean {known:?}?"),
            None => ": keys of your own begin with \"user.\"".to_owned(),
        };
        return Err(StorageError::UnknownKey { pool: pool.to_owned(), key: key.clone(), hint });
    }
    Ok(())
}

/// A directory of the user's must be there and empty: a pool shares its place with nobody.
fn check_source(pool: &str, source: &str) -> Result<(), StorageError> {
    let reason = match std::fs::read_dir(source) {
        _ if !Path::new(source).is_absolute() => "it must be an absolute path".to_owned(),
        Ok(mut entries) => match entries.next() {
            None => return Ok(()),
            Some(_) => "the directory is not empty".to_owned(),
        },
        Err(error) => format!("it cannot be read as a directory: {error}"),
    };
    Err(bad_value(pool, "source", source, reason))
}
