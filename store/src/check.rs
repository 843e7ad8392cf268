//! The limits, checked in front of every driver in the same way.

use std::collections::HashSet;

use crate::{Cond, Limits, StoreError, Txn, Write};

/// Refuses a transaction that goes beyond `limits` or writes a key twice.
pub(crate) fn check(txn: &Txn, limits: &Limits) -> Result<(), StoreError> {
    let refuse = |reason: String| Err(StoreError::Refused(reason));
    if txn.when.len() > limits.max_ops || txn.then.len() > limits.max_ops {
        let (conds, writes, max) = (txn.when.len(), txn.then.len(), limits.max_ops);
        return refuse(format!("it has {conds} conditions and {writes} writes, at most {max} of each are allowed"));
    }
    let mut total = 0;
    for key in txn.when.iter().map(Cond::key).chain(txn.then.iter().map(Write::key)) {
        if key.as_str().is_empty() {
            return refuse("it has an empty key".to_owned());
        }
        if key.as_str().len() > limits.max_key {
            let head: String = key.as_str().chars().take(60).collect();
            return refuse(format!("the key {head}... is longer than {} bytes", limits.max_key));
        }
        total += key.as_str().len();
    }
    let mut seen = HashSet::new();
    for write in &txn.then {
        if !seen.insert(write.key()) {
            return refuse(format!("it writes {} twice", write.key()));
        }
        if let Write::Put { key, value, .. } = write {
            if value.len() > limits.max_value {
                let (len, max) = (value.len(), limits.max_value);
                return refuse(format!("the value of {key} has {len} bytes, at most {max} are allowed"));
            }
            total += value.len();
        }
    }
    if total > limits.max_txn {
        return refuse(format!("it has {total} bytes, at most {} are allowed", limits.max_txn));
    }
    Ok(())
}
