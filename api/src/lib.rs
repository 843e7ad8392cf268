//! Wire types of Berth's REST API, and its client.
//!
//! The API is LXD 5.0's: every field that LXD 5.0 has is here under its JSON name. What Berth adds is marked
//! *Berth:* in its documentation, is left out of the JSON when unset, and so never disturbs an LXD client.
//!
//! All objects accept missing fields and Go's `null` for empty lists and maps.

pub mod certificates;
pub mod client;
pub mod envelope;
pub mod events;
pub mod exec;
pub mod hardware;
pub mod images;
pub mod instances;
pub mod networks;
pub mod operations;
pub mod profiles;
pub mod projects;
pub mod resources;
pub mod server;
pub mod snapshots;
pub mod state;
pub mod storage;
pub mod time;
pub mod warnings;

pub use client::{Client, Endpoint, Error};
pub use envelope::{Response, ResponseType, StatusCode};
pub use time::Time;

use std::collections::BTreeMap;

/// Keys and values of an object's configuration.
pub type Config = BTreeMap<String, String>;
/// Devices by name.
pub type Devices = BTreeMap<String, BTreeMap<String, String>>;

/// Reads a value that Go may have written as `null`.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}

/// Go's `omitempty` for booleans.
#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde wants
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}
