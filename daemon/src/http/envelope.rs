//! The envelopes of the wire: every one carries all seven keys, in LXD's order.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

#[derive(Serialize)]
struct Envelope<'a, T: Serialize> {
    r#type: &'static str,
    status: &'static str,
    status_code: u16,
    operation: &'a str,
    error_code: u16,
    error: &'a str,
    metadata: T,
}

fn respond<T: Serialize>(code: StatusCode, envelope: &Envelope<'_, T>) -> Response {
    let mut body = match serde_json::to_vec(envelope) {
        Ok(body) => body,
        Err(error) => {
            tracing::error!(%error, "cannot render a reply");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    body.push(b'\n');
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn success<T: Serialize>(metadata: T) -> Envelope<'static, T> {
    Envelope { r#type: "sync", status: "Success", status_code: 200, operation: "", error_code: 0, error: "", metadata }
}

/// 200 with metadata.
pub fn sync<T: Serialize>(metadata: T) -> Response {
    respond(StatusCode::OK, &success(metadata))
}

/// 200 with metadata and an entity tag.
pub fn tagged<T: Serialize>(metadata: T, etag: &str) -> Response {
    let mut response = sync(metadata);
    if let Ok(value) = HeaderValue::from_str(&format!("\"{etag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// 200 with nothing to tell: an empty object.
pub fn empty() -> Response {
    sync(serde_json::Map::new())
}

fn with_location(mut response: Response, location: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// 201: the object at `location` exists now.
pub fn created(location: &str) -> Response {
    with_location(respond(StatusCode::CREATED, &success(serde_json::Value::Null)), location)
}

/// 202: the operation at `url` works on it. `Location` carries the URL as well.
pub fn accepted<T: Serialize>(url: &str, operation: T) -> Response {
    let envelope = Envelope {
        r#type: "async",
        status: "Operation created",
        status_code: 100,
        operation: url,
        error_code: 0,
        error: "",
        metadata: operation,
    };
    with_location(respond(StatusCode::ACCEPTED, &envelope), url)
}

/// An error with its code and text.
pub fn error(code: StatusCode, message: &str) -> Response {
    let envelope = Envelope {
        r#type: "error",
        status: "",
        status_code: 0,
        operation: "",
        error_code: code.as_u16(),
        error: message,
        metadata: serde_json::Value::Null,
    };
    let mut response = respond(code, &envelope);
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A file's content as it is; `filename` must already be free of quotes and control characters.
pub fn raw(body: Body, length: Option<u64>, filename: &str) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Ok(value) = HeaderValue::from_str(&format!("inline;filename={filename}")) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn text(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn keys_come_in_the_order_of_the_wire() {
        assert_eq!(
            text(sync(["a"])).await,
            "{\"type\":\"sync\",\"status\":\"Success\",\"status_code\":200,\"operation\":\"\",\"error_code\":0,\
             \"error\":\"\",\"metadata\":[\"a\"]}\n"
        );
        assert_eq!(
            text(error(StatusCode::NOT_FOUND, "Instance not found")).await,
            "{\"type\":\"error\",\"status\":\"\",\"status_code\":0,\"operation\":\"\",\"error_code\":404,\
             \"error\":\"Instance not found\",\"metadata\":null}\n"
        );
        assert!(text(empty()).await.ends_with("\"metadata\":{}}\n"));
    }

    #[tokio::test]
    async fn created_and_accepted_carry_the_location() {
        let response = created("/1.0/profiles/p");
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()[header::LOCATION], "/1.0/profiles/p");
        assert!(text(response).await.ends_with("\"metadata\":null}\n"));
        let response = accepted("/1.0/operations/x", "op");
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert_eq!(response.headers()[header::LOCATION], "/1.0/operations/x");
        assert!(text(response).await.contains("\"operation\":\"/1.0/operations/x\""));
    }

    #[test]
    fn a_tag_is_quoted() {
        assert_eq!(tagged(1, "abc").headers()[header::ETAG], "\"abc\"");
    }
}
