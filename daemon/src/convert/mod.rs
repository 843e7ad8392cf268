//! Turns the types of the crates below into those of the wire and back.

pub mod errors;
pub mod images;
pub mod instances;
pub mod networks;
pub mod storage;
pub mod used_by;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::http::{ApiResult, body};

/// Fields whose keys are merged one by one by a `PATCH`.
const MERGED: &[&str] = &["config", "devices", "properties"];

/// An object as a `PATCH` leaves it: fields that the client sent replace the old ones, except that maps are merged.
/// The client's text is checked as such first, so that an error names the client's field.
pub fn patched<T: Serialize + DeserializeOwned>(current: &T, patch: &[u8]) -> ApiResult<T> {
    body::parse::<T>(patch)?;
    let patch: Map<String, Value> = body::parse(patch)?;
    let mut merged = match serde_json::to_value(current) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    for (field, new) in patch {
        match (merged.get_mut(&field), new) {
            (Some(Value::Object(old)), Value::Object(new)) if MERGED.contains(&field.as_str()) => old.extend(new),
            (_, new) => {
                merged.insert(field, new);
            }
        }
    }
    body::parse(&serde_json::to_vec(&merged).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_api::profiles::ProfilePut;

    #[test]
    fn a_patch_merges_maps_and_replaces_the_rest() {
        let old: ProfilePut = serde_json::from_str(
            r#"{"description":"d","config":{"a":"1","b":"2"},"devices":{"root":{"type":"disk"}}}"#,
        )
        .unwrap();
        let new = patched(&old, br#"{"config":{"b":"3"}}"#).unwrap();
        assert_eq!(new.description, "d");
        assert_eq!(serde_json::to_value(new.config).unwrap(), serde_json::json!({"a": "1", "b": "3"}));
        assert_eq!(new.devices.len(), 1);
        let error = patched(&old, br#"{"config":{"b":3}}"#).unwrap_err();
        assert!(error.to_string().contains("config.b"), "{error}");
    }
}
