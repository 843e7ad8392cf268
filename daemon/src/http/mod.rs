//! What every endpoint shares: envelopes, errors, entity tags, filters and the things read from a request.

pub mod body;
pub mod caller;
pub mod envelope;
pub mod error;
pub mod etag;
pub mod filter;
pub mod peer;
pub mod query;

pub use body::Json;
pub use caller::Caller;
pub use error::{ApiError, ApiResult};
pub use peer::{Peer, Scope};
pub use query::Query;
