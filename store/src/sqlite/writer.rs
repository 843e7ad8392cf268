//! Writing: one thread, one connection, group commit.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::{Past, db};
use crate::watch::{Batch, Event};
use crate::{Key, Kv, LeaseId, Outcome, Rev, StoreError, Txn, Write, step};

/// Transactions that share a commit at most.
const GROUP: usize = 256;

/// Revisions whose changes are kept in the database for watches.
const KEEP: Rev = 10_000;

/// Revisions whose changes are kept in memory as well.
pub(super) const KEEP_IN_MEMORY: usize = 1024;

/// How many revisions pass between two trims of the log.
const TRIM_EVERY: Rev = 1000;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
pub(super) enum Job {
    /// Run a transaction.
    Txn { txn: Txn, reply: Reply<Outcome> },
    /// Begin a lease.
    Grant { id: LeaseId, reply: Reply<()> },
    /// End a lease and remove its keys.
    Revoke { id: LeaseId, reply: Reply<()> },
    /// Forget the history up to a revision.
    Compact { before: Rev, reply: Reply<()> },
}

/// The writer.
pub(super) struct Writer {
    conn: Connection,
    path: PathBuf,
    rev: Rev,
    leases: HashSet<LeaseId>,
    past: Arc<Past>,
    problem: Arc<Mutex<Option<String>>>,
    /// Closed last, when the database is.
    _lock: File,
}

/// What a group of transactions came to, valid once it is committed.
struct Group {
    rev: Rev,
    outcomes: Vec<Result<Outcome, StoreError>>,
    batches: Vec<Batch>,
}

impl Writer {
    /// Takes over the connection and the lock.
    pub(super) fn new(
        conn: Connection,
        path: PathBuf,
        rev: Rev,
        past: Arc<Past>,
        problem: Arc<Mutex<Option<String>>>,
        lock: File,
    ) -> Writer {
        Writer { conn, path, rev, leases: HashSet::new(), past, problem, _lock: lock }
    }

    /// Works until the last sender is gone.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let (mut txns, mut replies) = (Vec::new(), Vec::new());
        while let Some(job) = jobs.blocking_recv() {
            let mut next = Some(job);
            while let Some(job) = next.take() {
                match job {
                    Job::Txn { txn, reply } => {
                        txns.push(txn);
                        replies.push(reply);
                        if txns.len() < GROUP {
                            next = jobs.try_recv().ok();
                        }
                    }
                    other => {
                        // Order matters: what came before is done before.
                        self.transact(&mut txns, &mut replies);
                        self.other(other);
                    }
                }
            }
            self.transact(&mut txns, &mut replies);
        }
        // Leaves a single file behind; if that fails the log is taken up at the next start.
        let _ = self.conn.pragma_update(None, "wal_checkpoint", "truncate");
    }

    fn other(&mut self, job: Job) {
        // A failed send means that nobody waits any more, here and below.
        match job {
            Job::Txn { .. } => {}
            Job::Grant { id, reply } => {
                self.leases.insert(id);
                let _ = reply.send(Ok(()));
            }
            Job::Revoke { id, reply } => {
                self.leases.remove(&id);
                let _ = reply.send(self.revoke(id));
            }
            Job::Compact { before, reply } => {
                let floor = before.min(self.rev);
                let trimmed = db::trim(&self.conn, floor).map_err(|error| db::explain(&self.path, &error));
                if trimmed.is_ok() {
                    self.past.recent.compact(floor);
                }
                let _ = reply.send(trimmed);
            }
        }
    }

    /// Runs the transactions, together if possible, and answers.
    fn transact(&mut self, txns: &mut Vec<Txn>, replies: &mut Vec<Reply<Outcome>>) {
        let (txns, replies) = (std::mem::take(txns), std::mem::take(replies));
        if txns.is_empty() {
            return;
        }
        let outcomes = match self.commit(&txns) {
            Ok(outcomes) => outcomes,
            Err(error) => self.commit_singly(&txns, &error),
        };
        let problem = outcomes.iter().rev().find_map(|outcome| match outcome {
            Err(error @ (StoreError::Full { .. } | StoreError::Engine { .. } | StoreError::Damaged { .. })) => {
                Some(error.to_string())
            }
            _ => None,
        });
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            let _ = reply.send(outcome);
        }
    }

    /// After a failed group: one bad or big transaction must not take the others with it.
    fn commit_singly(&mut self, txns: &[Txn], error: &rusqlite::Error) -> Vec<Result<Outcome, StoreError>> {
        if matches!(db::explain(&self.path, error), StoreError::Full { .. }) {
            // Moves the write-ahead log into the database and cuts it, which may make just enough room.
            let _ = self.conn.pragma_update(None, "wal_checkpoint", "truncate");
        }
        let mut outcomes = Vec::with_capacity(txns.len());
        for txn in txns {
            outcomes.push(match self.commit(std::slice::from_ref(txn)) {
                Ok(mut single) => single.pop().unwrap_or(Err(StoreError::Closed)),
                Err(error) => Err(db::explain(&self.path, &error)),
            });
        }
        outcomes
    }

    /// Runs the transactions as one of SQLite's. If that fails nothing has happened.
    fn commit(&mut self, txns: &[Txn]) -> rusqlite::Result<Vec<Result<Outcome, StoreError>>> {
        let sql = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut group = Group { rev: self.rev, outcomes: Vec::with_capacity(txns.len()), batches: Vec::new() };
        for txn in txns {
            group.run(&sql, txn, &self.leases)?;
        }
        if group.rev != self.rev {
            db::set_rev(&sql, group.rev)?;
            if group.rev / TRIM_EVERY != self.rev / TRIM_EVERY {
                db::trim(&sql, group.rev.saturating_sub(KEEP))?;
            }
            sql.commit()?;
            step::done(Committed(&group.batches));
        }
        self.rev = group.rev;
        self.past.recent.publish(group.batches);
        Ok(group.outcomes)
    }

    fn revoke(&mut self, id: LeaseId) -> Result<(), StoreError> {
        let held = || -> rusqlite::Result<Vec<String>> {
            let mut statement = self.conn.prepare_cached("SELECT key FROM kv WHERE lease = ?1 ORDER BY key")?;
            statement.query_map([id.0], |row| row.get(0))?.collect()
        };
        let held = held().map_err(|error| db::explain(&self.path, &error))?;
        let txn =
            Txn { when: Vec::new(), then: held.into_iter().map(|k| Write::Delete(Key::from_encoded(k))).collect() };
        self.commit(&[txn]).map(drop).map_err(|error| db::explain(&self.path, &error))
    }
}

/// The step that a commit is: by the first segments of the keys it changed.
struct Committed<'a>(&'a [Batch]);

impl fmt::Display for Committed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("committed")?;
        for event in self.0.iter().flat_map(|batch| &*batch.events) {
            let (verb, key) = match event {
                Event::Put(kv) => ("put", &kv.key),
                Event::Delete { key, .. } => ("delete", key),
            };
            write!(f, " {verb} {}", key.segments().first().map_or("", String::as_str))?;
        }
        Ok(())
    }
}

impl Group {
    /// Runs one transaction; the conditions come first, so a conflict needs no undoing.
    fn run(&mut self, sql: &Connection, txn: &Txn, leases: &HashSet<LeaseId>) -> rusqlite::Result<()> {
        let current: Vec<Option<Kv>> =
            txn.when.iter().map(|cond| db::get(sql, cond.key())).collect::<rusqlite::Result<_>>()?;
        if txn.when.iter().zip(&current).any(|(cond, kv)| !cond.holds(kv.as_ref())) {
            self.outcomes.push(Ok(Outcome::Conflict { current }));
            return Ok(());
        }
        let gone = txn.then.iter().find_map(|write| match write {
            Write::Put { lease: Some(id), .. } if !leases.contains(id) => Some(*id),
            _ => None,
        });
        if let Some(id) = gone {
            self.outcomes.push(Err(StoreError::LeaseGone(id)));
            return Ok(());
        }
        let rev = self.rev + 1;
        let mut events = Vec::with_capacity(txn.then.len());
        for write in &txn.then {
            match write {
                Write::Put { key, value, lease } => {
                    let create_rev = db::get(sql, key)?.map_or(rev, |kv| kv.create_rev);
                    let kv = Kv { key: key.clone(), value: value.clone(), create_rev, mod_rev: rev, lease: *lease };
                    db::put(sql, events.len(), &kv)?;
                    events.push(Event::Put(kv));
                }
                Write::Delete(key) => {
                    if db::remove(sql, rev, events.len(), key.as_str())? {
                        events.push(Event::Delete { key: key.clone(), rev });
                    }
                }
            }
        }
        if !events.is_empty() {
            self.rev = rev;
            self.batches.push(Batch { rev, events: events.into() });
        }
        self.outcomes.push(Ok(Outcome::Committed { rev: self.rev }));
        Ok(())
    }
}
