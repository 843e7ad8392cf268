//! Leases of drivers that live in the daemon's own process.
//!
//! Such a lease needs no renewal: it is held by a handle in the same process and cannot outlive it unnoticed. What
//! remains is the end: when the handle is dropped the keys stay for the time to live, so that code written against it
//! meets the same behaviour as with a remote engine.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use tokio::sync::{oneshot, watch};

/// Names a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub(crate) i64);

impl LeaseId {
    /// A fresh one; never negative, never zero, so that every engine can keep it.
    pub(crate) fn random() -> LeaseId {
        LeaseId(rand::rng().random_range(1..=i64::MAX))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A lease that is being held.
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    end: Option<oneshot::Sender<()>>,
    lost: watch::Receiver<bool>,
}

/// The driver's half of a lease.
#[derive(Debug)]
pub(crate) struct LeaseEnd {
    ttl: Duration,
    end: oneshot::Receiver<()>,
    lost: watch::Sender<bool>,
}

impl Lease {
    /// Makes the two halves.
    pub(crate) fn pair(id: LeaseId, ttl: Duration) -> (Lease, LeaseEnd) {
        let (end, ended) = oneshot::channel();
        let (lost, losing) = watch::channel(false);
        (Lease { id, end: Some(end), lost: losing }, LeaseEnd { ttl, end: ended, lost })
    }

    /// Its name, for [`crate::Txn::put_leased`].
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Returns when the lease is lost although the handle lives (the store was closed).
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // An error means that the driver's half is gone, which is a loss as well.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Ends the lease now; its keys are gone when this returns.
    pub async fn revoke(mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        self.lost().await;
    }
}

impl LeaseEnd {
    /// Waits for the end of the lease, lets `revoke` remove its keys and tells the handle.
    ///
    /// `open` is held by the store: when it goes the lease is lost at once, and nothing is left to revoke it from.
    pub(crate) async fn serve<F: Future<Output = ()>>(
        mut self,
        mut open: watch::Receiver<()>,
        revoke: impl FnOnce() -> F,
    ) {
        let ended = async {
            if (&mut self.end).await.is_err() {
                tokio::time::sleep(self.ttl).await;
            }
        };
        tokio::select! {
            () = ended => revoke().await,
            _ = open.changed() => {}
        }
        self.lost.send_replace(true);
    }
}
