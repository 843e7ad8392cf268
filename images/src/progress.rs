//! Progress of long jobs.

use serde::{Deserialize, Serialize};

/// One report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressEvent {
    /// What is being done, e.g. `unpack`.
    pub stage: String,
    /// How far it is, where that is known.
    pub percent: Option<u8>,
    /// Text for a user.
    pub text: String,
}

/// Where reports go.
pub type Progress = dyn Fn(ProgressEvent) + Send + Sync;
