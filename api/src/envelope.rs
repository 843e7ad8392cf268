//! The envelope around every JSON answer.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::or_default;

/// What kind of answer an envelope holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResponseType {
    /// The result is in `metadata`.
    #[default]
    Sync,
    /// Work goes on in the background; `operation` is its URL and `metadata` the operation.
    Async,
    /// The request failed; see `error` and `error_code`.
    Error,
}

/// LXD's status codes, of answers, operations and instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StatusCode(pub u16);

macro_rules! status_codes {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        impl StatusCode {
            $(#[doc = concat!("`", $text, "`")] pub const $name: StatusCode = StatusCode($code);)*

            /// LXD's text of the code; empty for none.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self.0 { $($code => $text,)* _ => "" }
            }

            /// The code of LXD's text, in any case of letters.
            #[must_use]
            pub fn from_text(text: &str) -> Option<StatusCode> {
                $(if text.eq_ignore_ascii_case($text) { return Some(StatusCode($code)); })*
                None
            }

            /// Every code with its text.
            pub const TABLE: &'static [(StatusCode, &'static str)] = &[$((StatusCode($code), $text)),*];
        }
    };
}

status_codes! {
    OPERATION_CREATED = 100, "Operation created";
    STARTED = 101, "Started";
    STOPPED = 102, "Stopped";
    RUNNING = 103, "Running";
    CANCELLING = 104, "Cancelling";
    PENDING = 105, "Pending";
    STARTING = 106, "Starting";
    STOPPING = 107, "Stopping";
    ABORTING = 108, "Aborting";
    FREEZING = 109, "Freezing";
    FROZEN = 110, "Frozen";
    THAWED = 111, "Thawed";
    ERROR = 112, "Error";
    READY = 113, "Ready";
    SUCCESS = 200, "Success";
    FAILURE = 400, "Failure";
    CANCELLED = 401, "Cancelled";
}

impl StatusCode {
    /// Whether an operation with this status has ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        self.0 >= 200
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The envelope. All seven keys are always written, in this order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Response {
    /// Which kind of answer this is.
    #[serde(rename = "type")]
    pub kind: ResponseType,
    /// Text of `status_code`; empty in errors.
    pub status: String,
    /// 200 for sync, 100 for async, 0 for errors.
    pub status_code: StatusCode,
    /// URL of the operation of an async answer, else empty.
    pub operation: String,
    /// HTTP status of an error, else 0.
    pub error_code: u16,
    /// What went wrong, else empty.
    pub error: String,
    /// The result.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Value,
}

impl Response {
    /// The answer to a request that was done at once.
    #[must_use]
    pub fn sync(metadata: Value) -> Self {
        Self {
            kind: ResponseType::Sync,
            status: StatusCode::SUCCESS.text().into(),
            status_code: StatusCode::SUCCESS,
            metadata,
            ..Self::default()
        }
    }

    /// The answer to a request that was done and has nothing to tell.
    #[must_use]
    pub fn empty() -> Self {
        Self::sync(Value::Object(serde_json::Map::new()))
    }

    /// The answer to a request that goes on as the operation of this URL.
    #[must_use]
    pub fn background(url: impl Into<String>, operation: Value) -> Self {
        Self {
            kind: ResponseType::Async,
            status: StatusCode::OPERATION_CREATED.text().into(),
            status_code: StatusCode::OPERATION_CREATED,
            operation: url.into(),
            metadata: operation,
            ..Self::default()
        }
    }

    /// The answer to a request that failed.
    #[must_use]
    pub fn error(code: u16, message: impl Into<String>) -> Self {
        Self { kind: ResponseType::Error, error_code: code, error: message.into(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_seven_keys_in_order() {
        let text = serde_json::to_string(&Response::sync(serde_json::json!(["/1.0"]))).unwrap();
        assert_eq!(
            text,
            r#"{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":["/1.0"]}"#
        );
        let text = serde_json::to_string(&Response::error(404, "Instance not found")).unwrap();
        assert_eq!(
            text,
            r#"{"type":"error","status":"","status_code":0,"operation":"","error_code":404,"error":"Instance not found","metadata":null}"#
        );
        let text = serde_json::to_string(&Response::background("/1.0/operations/x", Value::Null)).unwrap();
        assert_eq!(
            text,
            r#"{"type":"async","status":"Operation created","status_code":100,"operation":"/1.0/operations/x","error_code":0,"error":"","metadata":null}"#
        );
        assert!(serde_json::to_string(&Response::empty()).unwrap().ends_with(r#""metadata":{}}"#));
    }

    #[test]
    fn missing_keys_are_tolerated() {
        let response: Response = serde_json::from_str(r#"{"type":"sync"}"#).unwrap();
        assert_eq!(response.metadata, Value::Null);
    }

    #[test]
    fn texts_and_codes_agree() {
        for &(code, text) in StatusCode::TABLE {
            assert_eq!(code.text(), text);
            assert_eq!(StatusCode::from_text(&text.to_uppercase()), Some(code));
        }
        assert!(StatusCode::FAILURE.is_final() && !StatusCode::READY.is_final());
    }
}
