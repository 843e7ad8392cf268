//! What the helper writes on its standard output, one JSON object per line.

use std::io::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::progress::ProgressEvent;
use berth_store::ErrorKind;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The job goes on.
    Progress(ProgressEvent),
    /// The job is done; its result.
    Done(Value),
    /// The job failed.
    Failed(Failure),
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault it is.
    pub fault: Fault,
    /// Object, reason and next step.
    pub message: String,
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The files given are not valid.
    Invalid,
    /// The host lacks something.
    Precondition,
    /// Anything else.
    Internal,
}

/// Result of a job of the helper.
pub type JobResult<T> = Result<T, Failure>;

impl Failure {
    /// The files given are not valid.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { fault: Fault::Invalid, message: message.into() }
    }

    /// The host lacks something.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self { fault: Fault::Precondition, message: message.into() }
    }

    /// A fault of the host or of Berth.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { fault: Fault::Internal, message: message.into() }
    }

    /// For `map_err` on system calls: says what was done when it failed. A full disk is not Berth's fault.
    pub fn from_io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::precondition(format!("{what}: {error}; free some space and try again"))
            }
            _ => Self::internal(format!("{what}: {error}")),
        }
    }
}

impl From<Failure> for crate::error::Error {
    fn from(failure: Failure) -> Self {
        match failure.fault {
            Fault::Invalid => Self::Invalid(failure.message),
            Fault::Precondition => Self::Precondition(failure.message),
            Fault::Internal => Self::Job(failure.message),
        }
    }
}

impl From<Fault> for ErrorKind {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Invalid => Self::Invalid,
            Fault::Precondition => Self::Unavailable,
            Fault::Internal => Self::Internal,
        }
    }
}

/// Writes one line. A reader that is gone ends the helper soon enough.
pub fn say(line: &Line) {
    if let Ok(mut text) = serde_json::to_vec(line) {
        text.push(b'\n');
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(&text).and_then(|()| out.flush());
    }
}

/// Reports progress.
pub fn progress(stage: &str, percent: Option<u8>, text: impl Into<String>) {
    say(&Line::Progress(ProgressEvent { stage: stage.to_owned(), percent, text: text.into() }));
}

/// Reports failure.
pub fn fail(failure: &Failure) {
    say(&Line::Failed(failure.clone()));
}

/// Reports the outcome of a job and gives the exit code that goes with it.
pub fn finish<T: Serialize>(outcome: JobResult<T>) -> i32 {
    match outcome.and_then(|value| {
        serde_json::to_value(value).map_err(|e| Failure::internal(format!("cannot express the result: {e}")))
    }) {
        Ok(value) => {
            say(&Line::Done(value));
            0
        }
        Err(failure) => {
            fail(&failure);
            1
        }
    }
}
