//! Rules of snapshots that are about words and dates only: when they are made, what they are called, when they go.

pub(crate) mod cron;
pub(crate) mod expiry;
pub(crate) mod name;
pub(crate) mod schedule;
