//! The default driver: SQLite in this process.
//!
//! One thread owns the only writing connection and commits what has queued up meanwhile as one SQLite transaction
//! (group commit), so that a flush to disk is shared by all who wait for one. Readers have connections of their own
//! and never wait for it (WAL). A committed transaction is on disk (`synchronous=FULL`).

mod db;
mod lock;
mod reader;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::watch::{Chunk, History, Recent, follow, resync};
use crate::{Health, Key, Kv, Lease, LeaseId, Outcome, Rev, Snapshot, Store, StoreError, Txn, WatchItem, check};
use reader::Readers;
use writer::{Job, Writer};

/// Jobs that may wait for the writer before callers have to wait to queue.
const QUEUE: usize = 256;

/// A store in a directory.
#[derive(Debug)]
pub struct SqliteStore {
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
    past: Arc<Past>,
    problem: Arc<Mutex<Option<String>>>,
    open: watch::Sender<()>,
}

/// The changes of the past: the latest in memory, older ones in the database.
#[derive(Debug)]
struct Past {
    recent: Recent,
    readers: Readers,
}

impl SqliteStore {
    /// Opens the store in `dir` and creates both if they are not there.
    ///
    /// Keys under leases of an earlier process are removed, for their holders ended with it.
    pub async fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
        let dir = dir.to_owned();
        let work = tokio::task::spawn_blocking(move || SqliteStore::open_blocking(&dir));
        work.await.map_err(|_| StoreError::Closed)?
    }

    fn open_blocking(dir: &Path) -> Result<SqliteStore, StoreError> {
        let lock = lock::acquire(dir)?;
        let path = dir.join("state.db");
        let conn = db::open_writer(&path)?;
        let rev = db::start(&conn, &path)?;
        let past =
            Arc::new(Past { recent: Recent::new(rev, writer::KEEP_IN_MEMORY), readers: Readers::new(path.clone()) });
        let problem = Arc::new(Mutex::new(None));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = Writer::new(conn, path, rev, past.clone(), problem.clone(), lock);
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || writer.run(queue));
        let thread = thread.map_err(|source| StoreError::Path { path: dir.to_owned(), source })?;
        Ok(SqliteStore { jobs: Some(jobs), writer: Some(thread), past, problem, open: watch::Sender::new(()) })
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.send(job(reply)).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        // The writer ends when the last sender is gone. It is waited for (a few milliseconds at most, it only finishes
        // what is queued), so that the directory is free again when this returns.
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        self.past.recent.close();
    }
}

#[async_trait]
impl History for Past {
    fn recent(&self) -> &Recent {
        &self.recent
    }

    async fn read(&self, after: Rev) -> Result<Chunk, StoreError> {
        match self.recent.read(after) {
            Chunk::Compacted => self.readers.with(move |conn| reader::history(conn, after)).await,
            found => Ok(found),
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &Key) -> Result<Option<Kv>, StoreError> {
        let key = key.clone();
        self.past.readers.with(move |conn| db::get(conn, &key)).await
    }

    async fn snapshot(&self, prefix: &Key) -> Result<Snapshot, StoreError> {
        let prefix = prefix.clone();
        self.past.readers.with(move |conn| reader::snapshot(conn, &prefix)).await
    }

    async fn txn(&self, txn: Txn) -> Result<Outcome, StoreError> {
        check::check(&txn, &self.limits())?;
        self.ask(|reply| Job::Txn { txn, reply }).await
    }

    async fn watch(&self, prefix: &Key, after: Rev) -> Result<BoxStream<'static, WatchItem>, StoreError> {
        // A reader may have seen a commit that the writer has not published yet: only the database can tell.
        if after > self.past.recent.rev() && after > self.past.readers.with(db::rev).await? {
            return Ok(resync());
        }
        Ok(follow(self.past.clone(), prefix.clone(), after))
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let id = LeaseId::random();
        self.ask(|reply| Job::Grant { id, reply }).await?;
        let (lease, end) = Lease::pair(id, ttl);
        // A weak sender: a lease that is being held must not keep the writer alive.
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?.downgrade();
        tokio::spawn(end.serve(self.open.subscribe(), move || async move {
            let Some(jobs) = jobs.upgrade() else { return };
            let (reply, answer) = oneshot::channel();
            if jobs.send(Job::Revoke { id, reply }).await.is_err() {
                return;
            }
            drop(jobs);
            if let Ok(Err(error)) = answer.await {
                tracing::warn!(%error, lease = %id, "Cannot remove the keys of an ended lease; they stay until the next start");
            }
        }));
        Ok(lease)
    }

    async fn compact(&self, before: Rev) -> Result<(), StoreError> {
        self.ask(|reply| Job::Compact { before, reply }).await
    }

    async fn health(&self) -> Health {
        let path = self.past.readers.path().to_owned();
        let (size, free) =
            tokio::task::spawn_blocking(move || (size(&path), db::free_space(&path))).await.unwrap_or_default();
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Health { driver: "sqlite", rev: self.past.recent.rev(), size, free, problem }
    }
}

/// Bytes of the database and its log.
fn size(path: &Path) -> Option<u64> {
    let main = std::fs::metadata(path).ok()?.len();
    let mut wal = PathBuf::from(path).into_os_string();
    wal.push("-wal");
    Some(main + std::fs::metadata(wal).map_or(0, |meta| meta.len()))
}
