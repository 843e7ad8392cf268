//! Watches: the recent changes in memory, and the stream that follows them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use crate::{Key, Kv, Rev, StoreError};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was created or changed.
    Put(Kv),
    /// A key was removed.
    Delete {
        /// The key.
        key: Key,
        /// Revision of its removal.
        rev: Rev,
    },
}

impl Event {
    /// The key that was changed.
    pub fn key(&self) -> &Key {
        match self {
            Event::Put(kv) => &kv.key,
            Event::Delete { key, .. } => key,
        }
    }
}

/// What a watch yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// All changes of one transaction that concern the prefix.
    Batch {
        /// Revision of the transaction.
        rev: Rev,
        /// The changes.
        events: Vec<Event>,
    },
    /// Up to this revision nothing else concerned the prefix.
    Progress {
        /// That revision.
        rev: Rev,
    },
    /// The changes asked for are no longer known: list again and watch from there. The stream ends after it.
    Resync,
}

/// All changes of one revision.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub rev: Rev,
    pub events: Arc<[Event]>,
}

/// What a reader of the history gets.
pub(crate) enum Chunk {
    /// Everything in `(after, upto]`, in order.
    Batches { batches: Vec<Batch>, upto: Rev },
    /// The beginning of what was asked for is gone.
    Compacted,
}

/// The latest changes, and who waits for more.
#[derive(Debug)]
pub(crate) struct Recent {
    ring: Mutex<Ring>,
    tip: watch::Sender<Tip>,
    keep: usize,
}

/// Where the history ends at present.
#[derive(Clone, Copy, Debug)]
struct Tip {
    rev: Rev,
    /// Nothing will follow: the store is gone.
    closed: bool,
}

#[derive(Debug)]
struct Ring {
    /// Changes up to and including this revision are not in `batches`.
    floor: Rev,
    batches: VecDeque<Batch>,
}

impl Recent {
    /// Begins at `rev`, and holds `keep` revisions at most.
    pub(crate) fn new(rev: Rev, keep: usize) -> Recent {
        let ring = Mutex::new(Ring { floor: rev, batches: VecDeque::new() });
        Recent { ring, tip: watch::Sender::new(Tip { rev, closed: false }), keep }
    }

    /// Appends the changes of new revisions and wakes the watchers.
    pub(crate) fn publish(&self, batches: Vec<Batch>) {
        let Some(tip) = batches.last().map(|batch| batch.rev) else { return };
        {
            let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.batches.extend(batches);
            while ring.batches.len() > self.keep {
                if let Some(batch) = ring.batches.pop_front() {
                    ring.floor = batch.rev;
                }
            }
        }
        self.tip.send_modify(|last| last.rev = tip);
    }

    /// Ends all watches once they have told what happened.
    pub(crate) fn close(&self) {
        self.tip.send_modify(|last| last.closed = true);
    }

    /// Forgets everything up to and including `before`.
    pub(crate) fn compact(&self, before: Rev) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.floor = ring.floor.max(before.min(self.rev()));
        while ring.batches.front().is_some_and(|batch| batch.rev <= before) {
            ring.batches.pop_front();
        }
    }

    /// The newest revision.
    pub(crate) fn rev(&self) -> Rev {
        self.tip.borrow().rev
    }

    /// Everything after `after`.
    pub(crate) fn read(&self, after: Rev) -> Chunk {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if after < ring.floor {
            return Chunk::Compacted;
        }
        let start = ring.batches.partition_point(|batch| batch.rev <= after);
        let batches: Vec<Batch> = ring.batches.range(start..).cloned().collect();
        let upto = batches.last().map_or(after, |batch| batch.rev);
        Chunk::Batches { batches, upto }
    }
}

/// The whole history that a driver can offer.
#[async_trait]
pub(crate) trait History: Send + Sync + 'static {
    /// The recent changes.
    fn recent(&self) -> &Recent;
    /// Changes after `after`; as many as are convenient, but at least one if there are any.
    async fn read(&self, after: Rev) -> Result<Chunk, StoreError>;
}

struct Follower {
    history: Arc<dyn History>,
    tip: watch::Receiver<Tip>,
    prefix: Key,
    last: Rev,
    queue: VecDeque<WatchItem>,
    ended: bool,
}

/// The stream of changes at and below `prefix` after `after`.
pub(crate) fn follow(history: Arc<dyn History>, prefix: Key, after: Rev) -> BoxStream<'static, WatchItem> {
    let tip = history.recent().tip.subscribe();
    let follower = Follower { history, tip, prefix, last: after, queue: VecDeque::new(), ended: false };
    stream::unfold(follower, |mut follower| async move {
        let item = follower.next().await?;
        Some((item, follower))
    })
    .boxed()
}

/// A stream that only says that the caller has to list again.
pub(crate) fn resync() -> BoxStream<'static, WatchItem> {
    stream::iter([WatchItem::Resync]).boxed()
}

impl Follower {
    async fn next(&mut self) -> Option<WatchItem> {
        loop {
            if let Some(item) = self.queue.pop_front() {
                return Some(item);
            }
            if self.ended {
                return None;
            }
            let tip = *self.tip.borrow_and_update();
            if self.last < tip.rev {
                self.fill(tip.rev).await;
            } else if tip.closed || self.tip.changed().await.is_err() {
                return None;
            }
        }
    }

    async fn fill(&mut self, tip: Rev) {
        match self.history.read(self.last).await {
            Ok(Chunk::Batches { batches, upto }) => {
                let mut told = self.last;
                for batch in batches {
                    let events: Vec<Event> =
                        batch.events.iter().filter(|event| self.prefix.covers(event.key())).cloned().collect();
                    if !events.is_empty() {
                        told = batch.rev;
                        self.queue.push_back(WatchItem::Batch { rev: batch.rev, events });
                    }
                }
                // A history whose tail is missing must not make the loop spin.
                self.last = if upto > self.last { upto } else { tip };
                if told < self.last && self.last >= tip {
                    self.queue.push_back(WatchItem::Progress { rev: self.last });
                }
            }
            Ok(Chunk::Compacted) => self.end(),
            Err(error) => {
                tracing::warn!(%error, prefix = %self.prefix, "Cannot read the history of the state; watchers list again");
                self.end();
            }
        }
    }

    fn end(&mut self) {
        self.queue.push_back(WatchItem::Resync);
        self.ended = true;
    }
}
