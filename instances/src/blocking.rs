//! Work that waits, kept off the threads that serve everybody.

use crate::error::{Error, Result};

/// Does `work` on a thread that may wait.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::Runtime(format!("a task failed: {e}")))?
}
