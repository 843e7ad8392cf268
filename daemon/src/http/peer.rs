//! What is at the other end of a connection.

use std::{net::IpAddr, sync::Arc};

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::ApiError;

/// Put into each request's extensions by the listener. What it may do is found out with each request (`access`).
#[derive(Debug, Clone)]
pub enum Peer {
    /// Somebody who may open the unix socket, and so do everything.
    Local,
    /// A client on the network.
    Network {
        /// Its address.
        address: IpAddr,
        /// The certificate whose key it has proved to have, DER.
        certificate: Option<Arc<[u8]>>,
        /// SHA-256 of the certificate, hexadecimal.
        fingerprint: Option<String>,
        /// What the listener serves.
        scope: Scope,
    },
}

/// What a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of the API.
    Api,
    /// Figures only.
    Metrics,
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| ApiError::forbidden("not authorized"))
    }
}
