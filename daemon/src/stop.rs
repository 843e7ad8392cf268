//! How the daemon is told to stop.

use std::sync::Arc;

use tokio::sync::watch;

/// What is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The daemon; instances go on running.
    Daemon,
    /// All instances too, because the host goes down. They come back with the daemon.
    Host,
}

impl Extent {
    /// Where it is asked for.
    pub fn path(self) -> &'static str {
        match self {
            Self::Daemon => "/internal/shutdown",
            Self::Host => "/internal/shutdown-host",
        }
    }
}

/// Tells the daemon to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<Option<Extent>>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Stop {
    /// Tells it; what was told first stands.
    pub fn now(&self, extent: Extent) {
        self.0.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(extent);
            first
        });
    }

    /// Waits until it is told.
    pub async fn told(&self) -> Extent {
        let mut told = self.0.subscribe();
        match told.wait_for(Option::is_some).await.map(|told| *told) {
            Ok(Some(extent)) => extent,
            // This very sender keeps it open.
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_told_first_stands() {
        let stop = Stop::default();
        let waiting = tokio::spawn({
            let stop = stop.clone();
            async move { stop.told().await }
        });
        stop.now(Extent::Host);
        stop.now(Extent::Daemon);
        assert_eq!((waiting.await.unwrap(), stop.told().await), (Extent::Host, Extent::Host));
    }
}
