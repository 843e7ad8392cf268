//! One task at a time for one image's files.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Shared {
    taken: Mutex<HashSet<String>>,
    freed: Notify,
}

/// Names that are taken.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims(Arc<Shared>);

/// A name that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    name: String,
    shared: Arc<Shared>,
}

impl Claims {
    /// Takes `name`, waiting until nobody else has it.
    pub async fn take(&self, name: &str) -> Claim {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            // Registered before looking, so that no release is missed.
            freed.as_mut().enable();
            if self.0.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned()) {
                return Claim { name: name.to_owned(), shared: Arc::clone(&self.0) };
            }
            freed.await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.shared.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_at_a_time() {
        let claims = Claims::default();
        let inside = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (claims, inside) = (claims.clone(), Arc::clone(&inside));
                tokio::spawn(async move {
                    let _claim = claims.take("x").await;
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("task");
        }
    }
}
