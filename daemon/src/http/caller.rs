//! Who asks.

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde::Serialize;

use super::ApiError;

/// The other end of a connection; the listener puts it into each request's extensions. It is also the
/// `requestor` of lifecycle events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Caller {
    /// Name of the user, or fingerprint of the certificate.
    pub username: String,
    /// `unix` or `tls`.
    pub protocol: &'static str,
    /// Address; `@` on the unix socket.
    pub address: String,
}

impl Caller {
    /// Whether the other is the same user, on whatever connection.
    pub fn is_same_user(&self, other: &Self) -> bool {
        (&self.username, self.protocol) == (&other.username, other.protocol)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError::forbidden("not authorized"))
    }
}
