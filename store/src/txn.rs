//! Transactions.

use bytes::Bytes;

use crate::{Key, Kv, LeaseId, Rev};

/// Something that must hold for a transaction to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cond {
    /// The key does not exist.
    Absent(Key),
    /// The key exists.
    Exists(Key),
    /// The key exists and was written last at this revision.
    ModRev(Key, Rev),
    /// The key exists and was created at this revision (the fencing token of a lock or a lease).
    CreateRev(Key, Rev),
}

impl Cond {
    /// The key that the condition looks at.
    pub fn key(&self) -> &Key {
        match self {
            Cond::Absent(key) | Cond::Exists(key) | Cond::ModRev(key, _) | Cond::CreateRev(key, _) => key,
        }
    }

    /// Whether it holds, given what is at its key.
    pub(crate) fn holds(&self, current: Option<&Kv>) -> bool {
        match self {
            Cond::Absent(_) => current.is_none(),
            Cond::Exists(_) => current.is_some(),
            Cond::ModRev(_, rev) => current.is_some_and(|kv| kv.mod_rev == *rev),
            Cond::CreateRev(_, rev) => current.is_some_and(|kv| kv.create_rev == *rev),
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// The lease it falls with from now on; `None` frees it from any.
        lease: Option<LeaseId>,
    },
    /// Removes a key; nothing happens if it is not there.
    Delete(Key),
}

impl Write {
    /// The key that is changed.
    pub fn key(&self) -> &Key {
        match self {
            Write::Put { key, .. } | Write::Delete(key) => key,
        }
    }
}

/// A transaction: conditions, and the writes to do if all of them hold.
///
/// A key may be written once only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub when: Vec<Cond>,
    /// The writes.
    pub then: Vec<Write>,
}

impl Txn {
    /// A transaction without conditions and writes.
    pub fn new() -> Txn {
        Txn::default()
    }

    /// Demands that `key` does not exist.
    pub fn absent(self, key: Key) -> Txn {
        self.when(Cond::Absent(key))
    }

    /// Demands that `key` exists.
    pub fn exists(self, key: Key) -> Txn {
        self.when(Cond::Exists(key))
    }

    /// Demands that `key` was written last at `rev`.
    pub fn mod_rev(self, key: Key, rev: Rev) -> Txn {
        self.when(Cond::ModRev(key, rev))
    }

    /// Demands that `key` was created at `rev`.
    pub fn create_rev(self, key: Key, rev: Rev) -> Txn {
        self.when(Cond::CreateRev(key, rev))
    }

    /// Adds a condition.
    pub fn when(mut self, cond: Cond) -> Txn {
        self.when.push(cond);
        self
    }

    /// Sets `key`.
    pub fn put(self, key: Key, value: impl Into<Bytes>) -> Txn {
        self.write(Write::Put { key, value: value.into(), lease: None })
    }

    /// Sets `key`, which then falls with the lease.
    pub fn put_leased(self, key: Key, value: impl Into<Bytes>, lease: LeaseId) -> Txn {
        self.write(Write::Put { key, value: value.into(), lease: Some(lease) })
    }

    /// Removes `key`.
    pub fn delete(self, key: Key) -> Txn {
        self.write(Write::Delete(key))
    }

    /// Adds the conditions and writes of another one.
    pub fn and(mut self, other: Txn) -> Txn {
        self.when.extend(other.when);
        self.then.extend(other.then);
        self
    }

    /// Adds a write, such as [`crate::doc::put`] makes.
    pub fn write(mut self, write: Write) -> Txn {
        self.then.push(write);
        self
    }
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All writes are done and durable.
    Committed {
        /// Revision of the transaction; the current one if it changed nothing.
        rev: Rev,
    },
    /// A condition did not hold; nothing was changed.
    Conflict {
        /// What is at the key of each condition, in the order of the conditions.
        current: Vec<Option<Kv>>,
    },
}

impl Outcome {
    /// The revision if it was committed.
    pub fn committed(&self) -> Option<Rev> {
        match self {
            Outcome::Committed { rev } => Some(*rev),
            Outcome::Conflict { .. } => None,
        }
    }
}
