//! The database: its schema, how it is opened, and what its errors mean.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, TransactionBehavior, params};

use crate::{Key, Kv, LeaseId, Rev, StoreError};

/// Marks the file as ours.
const APPLICATION_ID: i32 = 0x4265_7274;

/// The format that is written, kept as `user_version`.
const FORMAT: i64 = 1;

/// How long a statement waits for somebody who looks at the database by hand.
const BUSY: Duration = Duration::from_secs(5);

/// Below this many bytes of free space an I/O error is taken for a full disk: SQLite does not always tell the two apart.
const FULL_BELOW: u64 = 256 * 1024;

const SCHEMA: &str = "
CREATE TABLE kv (
    key TEXT NOT NULL PRIMARY KEY,
    create_rev INTEGER NOT NULL,
    mod_rev INTEGER NOT NULL,
    lease INTEGER,
    value BLOB NOT NULL
) STRICT;
CREATE INDEX kv_lease ON kv (lease) WHERE lease IS NOT NULL;
-- What happened at each revision; a row without create_rev is a removal.
CREATE TABLE log (
    rev INTEGER NOT NULL,
    sub INTEGER NOT NULL,
    key TEXT NOT NULL,
    create_rev INTEGER,
    lease INTEGER,
    value BLOB,
    PRIMARY KEY (rev, sub)
) STRICT, WITHOUT ROWID;
-- The current revision, and the one up to which the log was trimmed.
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    rev INTEGER NOT NULL,
    floor INTEGER NOT NULL
) STRICT;
INSERT INTO meta VALUES (1, 0, 0);
";

/// Opens the database for writing, making or checking its schema.
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    // SQLite would create it readable for all; its side files take the mode of this one.
    let mut options = OpenOptions::new();
    let made = options.write(true).create(true).truncate(false).mode(0o600).open(path);
    made.map_err(|source| StoreError::Path { path: path.to_owned(), source })?;
    prepare(path).map_err(|error| match error {
        Open::Newer(found) => StoreError::NewerSchema { path: path.to_owned(), found, supported: FORMAT },
        Open::Foreign => StoreError::Damaged { path: path.to_owned(), reason: "it is some other program's".to_owned() },
        Open::Sql(error) => explain(path, &error),
    })
}

enum Open {
    Newer(i64),
    Foreign,
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Open {
    fn from(error: rusqlite::Error) -> Open {
        Open::Sql(error)
    }
}

fn prepare(path: &Path) -> Result<Connection, Open> {
    let mut conn =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY)?;
    // The format is looked at before anything is written, the journal mode included.
    let format: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let objects: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID && (application != 0 || objects != 0) {
        return Err(Open::Foreign);
    }
    if format > FORMAT {
        return Err(Open::Newer(format));
    }
    conn.pragma_update(None, "journal_mode", "wal")?;
    conn.pragma_update(None, "synchronous", "full")?;
    if format == 0 {
        let txn = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        txn.execute_batch(SCHEMA)?;
        txn.pragma_update(None, "application_id", APPLICATION_ID)?;
        txn.pragma_update(None, "user_version", FORMAT)?;
        txn.commit()?;
    }
    conn.set_prepared_statement_cache_capacity(32);
    Ok(conn)
}

/// Opens the database for reading only.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY)?;
    Ok(conn)
}

/// Removes what leases of an earlier process left, and tells the current revision.
pub(super) fn start(conn: &Connection, path: &Path) -> Result<Rev, StoreError> {
    let work = || -> rusqlite::Result<Rev> {
        let rev = rev(conn)?;
        let next = rev + 1;
        let txn = conn.unchecked_transaction()?;
        let left = leased(&txn)?;
        for (sub, key) in left.iter().enumerate() {
            remove(&txn, next, sub, key)?;
        }
        if left.is_empty() {
            return Ok(rev);
        }
        set_rev(&txn, next)?;
        txn.commit()?;
        Ok(next)
    };
    work().map_err(|error| explain(path, &error))
}

fn leased(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare("SELECT key FROM kv WHERE lease IS NOT NULL ORDER BY key")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// The current revision.
pub(super) fn rev(conn: &Connection) -> rusqlite::Result<Rev> {
    conn.prepare_cached("SELECT rev FROM meta")?.query_row([], |row| row.get::<_, i64>(0)).map(unsigned)
}

/// Sets the current revision.
pub(super) fn set_rev(conn: &Connection, rev: Rev) -> rusqlite::Result<()> {
    conn.prepare_cached("UPDATE meta SET rev = ?1")?.execute([signed(rev)]).map(drop)
}

/// Reads one key.
pub(super) fn get(conn: &Connection, key: &Key) -> rusqlite::Result<Option<Kv>> {
    let sql = "SELECT key, create_rev, mod_rev, lease, value FROM kv WHERE key = ?1";
    conn.prepare_cached(sql)?.query_row([key.as_str()], row_to_kv).optional()
}

/// Writes one key, in the table and in the log.
pub(super) fn put(conn: &Connection, sub: usize, kv: &Kv) -> rusqlite::Result<()> {
    let lease = kv.lease.map(|lease| lease.0);
    let (created, changed) = (signed(kv.create_rev), signed(kv.mod_rev));
    let sql = "INSERT INTO kv (key, create_rev, mod_rev, lease, value) VALUES (?1, ?2, ?3, ?4, ?5) \
               ON CONFLICT (key) DO UPDATE SET mod_rev = ?3, lease = ?4, value = ?5";
    conn.prepare_cached(sql)?.execute(params![kv.key.as_str(), created, changed, lease, kv.value.as_ref()])?;
    let sql = "INSERT INTO log (rev, sub, key, create_rev, lease, value) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let row = params![changed, index(sub), kv.key.as_str(), created, lease, kv.value.as_ref()];
    conn.prepare_cached(sql)?.execute(row).map(drop)
}

/// Removes one key and logs it; `false` if it was not there.
pub(super) fn remove(conn: &Connection, rev: Rev, sub: usize, key: &str) -> rusqlite::Result<bool> {
    if conn.prepare_cached("DELETE FROM kv WHERE key = ?1")?.execute([key])? == 0 {
        return Ok(false);
    }
    let sql = "INSERT INTO log (rev, sub, key) VALUES (?1, ?2, ?3)";
    conn.prepare_cached(sql)?.execute(params![signed(rev), index(sub), key])?;
    Ok(true)
}

/// Forgets the log up to and including `floor`.
pub(super) fn trim(conn: &Connection, floor: Rev) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM log WHERE rev <= ?1")?.execute([signed(floor)])?;
    conn.prepare_cached("UPDATE meta SET floor = max(floor, ?1)")?.execute([signed(floor)]).map(drop)
}

/// Reads a row of (key, create_rev, mod_rev, lease, value).
pub(super) fn row_to_kv(row: &Row<'_>) -> rusqlite::Result<Kv> {
    Ok(Kv {
        key: Key::from_encoded(row.get(0)?),
        create_rev: unsigned(row.get(1)?),
        mod_rev: unsigned(row.get(2)?),
        lease: row.get::<_, Option<i64>>(3)?.map(LeaseId),
        value: Bytes::from(row.get::<_, Vec<u8>>(4)?),
    })
}

/// SQLite has signed integers only; revisions never come near their end.
pub(super) fn signed(rev: Rev) -> i64 {
    i64::try_from(rev).unwrap_or(i64::MAX)
}

/// The reverse of [`signed`].
pub(super) fn unsigned(rev: i64) -> Rev {
    u64::try_from(rev).unwrap_or_default()
}

fn index(sub: usize) -> i64 {
    i64::try_from(sub).unwrap_or(i64::MAX)
}

/// Bytes that the daemon can still write beside `path`.
pub(super) fn free_space(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path.parent()?).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Says what an error of SQLite means for the user.
pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    let reason = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path },
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen)
            if free_space(&path).is_some_and(|free| free < FULL_BELOW) =>
        {
            StoreError::Full { path }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged { path, reason },
        _ => StoreError::Engine { path, reason },
    }
}
