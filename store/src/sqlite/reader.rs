//! Reading: connections on blocking threads.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, params};
use tokio::sync::Semaphore;

use super::db;
use crate::watch::{Batch, Chunk, Event};
use crate::{Key, Kv, LeaseId, Rev, Snapshot, StoreError};

/// Reads that run at the same time; more wait for a turn.
const CONNECTIONS: usize = 4;

/// Revisions that a watch which lags behind reads at once.
const CHUNK: u64 = 256;

/// The connections for reading.
#[derive(Debug)]
pub(super) struct Readers {
    pool: Arc<Pool>,
    turns: Arc<Semaphore>,
}

#[derive(Debug)]
struct Pool {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// Connections are opened when they are needed first.
    pub(super) fn new(path: PathBuf) -> Readers {
        let pool = Arc::new(Pool { path, idle: Mutex::default() });
        Readers { pool, turns: Arc::new(Semaphore::new(CONNECTIONS)) }
    }

    /// The database file.
    pub(super) fn path(&self) -> &Path {
        &self.pool.path
    }

    /// Runs `work` with a connection.
    pub(super) async fn with<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let pool = self.pool.clone();
        let task = tokio::task::spawn_blocking(move || {
            // The turn belongs to the work, not to whoever waits for it and may give up.
            let _turn = turn;
            pool.run(work).map_err(|error| db::explain(&pool.path, &error))
        });
        task.await.map_err(|_| StoreError::Closed)?
    }
}

impl Pool {
    fn run<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let conn = match idle {
            Some(conn) => conn,
            None => db::open_reader(&self.path)?,
        };
        // After an error the connection is closed rather than kept in an unknown state.
        let result = work(&conn)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        Ok(result)
    }
}

/// Everything at and below `prefix`, at one revision.
pub(super) fn snapshot(conn: &Connection, prefix: &Key) -> rusqlite::Result<Snapshot> {
    let txn = conn.unchecked_transaction()?;
    let rev = db::rev(&txn)?;
    let kvs = if prefix.as_str().is_empty() {
        let sql = "SELECT key, create_rev, mod_rev, lease, value FROM kv ORDER BY key";
        txn.prepare_cached(sql)?.query_map([], db::row_to_kv)?.collect::<rusqlite::Result<Vec<Kv>>>()?
    } else {
        // '0' is the character after '/', so the range holds exactly what is below the prefix.
        let (low, high) = (format!("{prefix}/"), format!("{prefix}0"));
        let sql = "SELECT key, create_rev, mod_rev, lease, value FROM kv WHERE key = ?1 \
                   UNION ALL SELECT key, create_rev, mod_rev, lease, value FROM kv WHERE key >= ?2 AND key < ?3 \
                   ORDER BY key";
        let row = params![prefix.as_str(), low, high];
        txn.prepare_cached(sql)?.query_map(row, db::row_to_kv)?.collect::<rusqlite::Result<Vec<Kv>>>()?
    };
    Ok(Snapshot { kvs, rev })
}

/// The changes after `after` from the log.
pub(super) fn history(conn: &Connection, after: Rev) -> rusqlite::Result<Chunk> {
    let txn = conn.unchecked_transaction()?;
    let floor: i64 = txn.prepare_cached("SELECT floor FROM meta")?.query_row([], |row| row.get(0))?;
    if after < db::unsigned(floor) {
        return Ok(Chunk::Compacted);
    }
    let sql = "SELECT rev, key, create_rev, lease, value FROM log WHERE rev > ?1 AND rev <= ?2 ORDER BY rev, sub";
    let mut statement = txn.prepare_cached(sql)?;
    let mut rows = statement.query([db::signed(after), db::signed(after + CHUNK)])?;
    let mut batches: Vec<(Rev, Vec<Event>)> = Vec::new();
    while let Some(row) = rows.next()? {
        let rev = db::unsigned(row.get(0)?);
        let key = Key::from_encoded(row.get(1)?);
        let event = match row.get::<_, Option<i64>>(2)? {
            None => Event::Delete { key, rev },
            Some(created) => Event::Put(Kv {
                key,
                create_rev: db::unsigned(created),
                mod_rev: rev,
                lease: row.get::<_, Option<i64>>(3)?.map(LeaseId),
                value: Bytes::from(row.get::<_, Vec<u8>>(4)?),
            }),
        };
        match batches.last_mut() {
            Some((last, events)) if *last == rev => events.push(event),
            _ => batches.push((rev, vec![event])),
        }
    }
    let upto = batches.last().map_or(after, |(rev, _)| *rev);
    let batches = batches.into_iter().map(|(rev, events)| Batch { rev, events: events.into() }).collect();
    Ok(Chunk::Batches { batches, upto })
}
