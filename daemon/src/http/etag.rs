//! Entity tags: a hash over the mutable fields of an object.

use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::ApiError;

/// The tag of an object, without quotes. `fields` are those that a `PUT` may change.
pub fn of<T: Serialize>(fields: &T) -> String {
    let mut hash = Sha256::new();
    // A type that cannot be rendered has no stable tag; the types of the wire all can.
    let json = serde_json::to_vec(fields).unwrap_or_default();
    hash.update(&json);
    hash.update(b"\n");
    hex::encode(hash.finalize())
}

/// Fails with 412 if the request carries an `If-Match` other than `current`.
pub fn check(headers: &HeaderMap, current: &str) -> Result<(), ApiError> {
    let Some(wanted) = headers.get(header::IF_MATCH) else { return Ok(()) };
    let wanted = wanted.to_str().unwrap_or_default().trim();
    if wanted.is_empty() || wanted == "*" {
        return Ok(());
    }
    let wanted = wanted.trim_matches('"');
    if wanted == current {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::PRECONDITION_FAILED, format!("ETag doesn't match: {current} vs {wanted}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_MATCH, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_tag_depends_on_the_fields_only() {
        assert_eq!(of(&("a", 1)), of(&("a", 1)));
        assert_ne!(of(&("a", 1)), of(&("a", 2)));
        assert_eq!(of(&()).len(), 64);
    }

    #[test]
    fn if_match_is_compared_with_and_without_quotes() {
        assert!(check(&HeaderMap::new(), "t").is_ok());
        assert!(check(&with("t"), "t").is_ok());
        assert!(check(&with("\"t\""), "t").is_ok());
        assert!(check(&with("*"), "t").is_ok());
        let error = check(&with("\"u\""), "t").unwrap_err();
        assert_eq!(error.code(), StatusCode::PRECONDITION_FAILED);
        assert_eq!(error.to_string(), "ETag doesn't match: t vs u");
    }
}
