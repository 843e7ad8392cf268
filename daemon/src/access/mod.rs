//! Who may do what: decided for every request in one place, before its handler runs.
//!
//! Whoever may open the unix socket or has an unrestricted certificate may do everything. What others may do is listed
//! in the table of `rules`; what is not listed there is refused to them.

mod cors;
mod guard;
mod private;
mod rules;

use std::{collections::BTreeSet, sync::Arc};

use axum::extract::FromRequestParts;
use http::request::Parts;
use jiff::Timestamp;

pub use guard::guard;

use crate::{
    http::{ApiError, Peer},
    trust::{Kind, Trust},
};

/// What a caller may do; the guard puts it into each request's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Full,
    /// What concerns these projects.
    Restricted(Arc<BTreeSet<String>>),
    /// Read figures.
    Metrics,
    /// What strangers may.
    Untrusted,
}

impl Access {
    /// Of a caller, now.
    fn of(peer: &Peer, trust: &Trust) -> Self {
        let fingerprint = match peer {
            Peer::Local => return Self::Full,
            Peer::Network { fingerprint, .. } => fingerprint.as_ref(),
        };
        let Some(found) = fingerprint.and_then(|fingerprint| trust.find(fingerprint, Timestamp::now())) else {
            return Self::Untrusted;
        };
        match found.grant.kind {
            Kind::Metrics => Self::Metrics,
            Kind::Client if found.grant.restricted => Self::Restricted(Arc::new(found.grant.projects.clone())),
            Kind::Client => Self::Full,
        }
    }

    /// Whether it may do everything.
    pub fn is_full(&self) -> bool {
        *self == Self::Full
    }

    /// Whether a project's objects may be used.
    pub fn has_project(&self, project: &str) -> bool {
        match self {
            Self::Full => true,
            Self::Restricted(projects) => projects.contains(project),
            Self::Metrics | Self::Untrusted => false,
        }
    }

    /// Whether the server trusts the caller to use its API.
    pub fn is_trusted(&self) -> bool {
        matches!(self, Self::Full | Self::Restricted(_))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Access {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(refused)
    }
}

/// LXD's code and text, which clients know.
fn refused() -> ApiError {
    ApiError::forbidden("not authorized")
}
