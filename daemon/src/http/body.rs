//! JSON bodies with a cap and with errors that name the field.

use std::pin::Pin;

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
};
use bytes::BytesMut;
use futures::{Stream, StreamExt};
use http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ApiError;

/// Longest JSON body: an instance with large cloud-init data fits many times over.
pub const MAX_JSON: usize = 4 * 1024 * 1024;
/// Bytes of a body that nobody wants which are read and dropped.
const MAX_DISCARD: usize = 256 * 1024 * 1024;

/// Whether a body that may be JSON or a file's content says that it is JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    // What LXD's clients send for JSON unless told otherwise.
    kind.contains("json") || kind.starts_with("application/x-www-form-urlencoded")
}

/// Whether a body that may be JSON or an instance's backup says that it is a backup.
pub fn is_archive(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/octet-stream")
}

/// The body as `T`. The content type is not looked at, as LXD does not.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        parse(&read(request.into_body(), MAX_JSON).await?).map(Json)
    }
}

/// The whole body, at most `cap` bytes.
///
/// What is over the cap is read on for a while and dropped: a client that is answered while it still sends would see
/// its connection reset instead of the answer.
pub async fn read(body: Body, cap: usize) -> Result<Bytes, ApiError> {
    let mut stream = body.into_data_stream();
    let mut kept = BytesMut::new();
    let mut total = 0usize;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| ApiError::invalid(format!("Cannot read the request body: {error}")))?;
        total = total.saturating_add(chunk.len());
        if total <= cap {
            kept.extend_from_slice(&chunk);
        } else if total - cap > MAX_DISCARD {
            break;
        }
    }
    if total > cap {
        let message = format!("The request body is over the limit of {cap} bytes");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(kept.freeze())
}

/// Reads what comes for a while and drops it, for the sake of the answer as [`read`] does.
pub async fn discard<E>(mut stream: Pin<&mut impl Stream<Item = Result<Bytes, E>>>) {
    let mut left = MAX_DISCARD;
    while let Some(Ok(chunk)) = stream.next().await {
        left = left.saturating_sub(chunk.len());
        if left == 0 {
            return;
        }
    }
}

/// JSON as `T`; the error names the field that is wrong. A member that is `null` counts as absent: Go's clients and those
/// in Python send it for what they do not set.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut value: Value =
        serde_json::from_slice(bytes).map_err(|reason| ApiError::invalid(format!("Invalid request body: {reason}")))?;
    drop_nulls(&mut value);
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner();
        if path == "." {
            ApiError::invalid(format!("Invalid request body: {reason}"))
        } else {
            ApiError::invalid(format!("Invalid request body: field \"{path}\": {reason}"))
        }
    })
}

/// The parser has bounded the depth already.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[expect(dead_code, reason = "only parsed")]
        config: std::collections::BTreeMap<String, String>,
    }

    #[test]
    fn an_error_names_the_field() {
        let error = parse::<Outer>(br#"{"config":{"limits.cpu":2}}"#).unwrap_err();
        assert_eq!(error.code(), StatusCode::BAD_REQUEST);
        assert!(error.to_string().contains("config.limits.cpu"), "{error}");
        assert!(parse::<Outer>(b"").is_err());
        assert!(parse::<Outer>(b"{\"config\":{}} x").is_err());
        assert!(parse::<Outer>(b"{\"config\":{\"a\":null},\"unknown\":1}").is_ok());
        assert!(parse::<Outer>("[".repeat(1000).as_bytes()).is_err());
    }

    #[tokio::test]
    async fn a_body_over_the_cap_is_refused() {
        let error = read(Body::from(vec![0; 11]), 10).await.unwrap_err();
        assert_eq!(error.code(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(read(Body::from(vec![0; 10]), 10).await.unwrap().len(), 10);
    }
}
