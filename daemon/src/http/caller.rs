//! Who asks.

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde::Serialize;

use super::ApiError;

/// The other end of a connection; the listener puts it into each request's extensions. It is also the
/// `requestor` of lifecycle events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// Name of the user.
    pub username: String,
    /// `unix` (later also `tls` and `cluster`).
    pub protocol: &'static str,
    /// Address; `@` on the unix socket.
    pub address: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError::forbidden("not authorized"))
    }
}
