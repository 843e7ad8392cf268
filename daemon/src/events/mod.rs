//! The stream of events: operations, lifecycle of objects and the daemon's log.
//!
//! An event is rendered once and handed to each client's bounded queue. A client that does not read fast enough
//! is dropped: nobody waits for it, and it can reconnect and read the current state.

mod log;
mod socket;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use axum::extract::ws::Utf8Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub use log::LogLayer;
pub use socket::serve;

use crate::http::Caller;

/// Events that may wait for one client.
const QUEUE: usize = 1024;

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A change of an operation.
    Operation,
    /// Something happened to an object.
    Lifecycle,
    /// A line of the daemon's log.
    Logging,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Operation, Self::Lifecycle, Self::Logging];

    /// The wire's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operation => "operation",
            Self::Lifecycle => "lifecycle",
            Self::Logging => "logging",
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            format!("\"{text}\" isn't a supported event type; the types are operation, lifecycle and logging")
        })
    }
}

/// What a client wants to hear.
#[derive(Debug, Clone)]
pub struct Interest {
    /// Kinds.
    pub kinds: Vec<Kind>,
    /// One project's events (and those of no project), or all.
    pub project: Option<String>,
    /// Without those of no project.
    pub only_project: bool,
}

impl Interest {
    fn wants(&self, kind: Kind, project: Option<&str>) -> bool {
        self.kinds.contains(&kind)
            && match (&self.project, project) {
                (Some(mine), Some(theirs)) => mine == theirs,
                (_, Some(_)) => true,
                (_, None) => !self.only_project,
            }
    }
}

struct Subscriber {
    interest: Interest,
    queue: mpsc::Sender<Utf8Bytes>,
}

#[derive(Default)]
struct Hub {
    subscribers: Mutex<Vec<Subscriber>>,
    /// Subscribers to the log, so that a line nobody reads costs nothing.
    log_readers: AtomicUsize,
}

/// The hub; clones share it.
#[derive(Clone, Default)]
pub struct Events {
    hub: Arc<Hub>,
}

/// What is told of a lifecycle event.
#[derive(Debug)]
pub struct Lifecycle<'a> {
    /// `object-verb`.
    pub action: &'a str,
    /// URL of the object.
    pub source: String,
    /// Details.
    pub context: Value,
    /// Who caused it, if a client did.
    pub requestor: Option<&'a Caller>,
    /// Project of the object, if it has one.
    pub project: Option<&'a str>,
}

#[derive(Serialize)]
struct Wire<'a> {
    r#type: &'static str,
    timestamp: Timestamp,
    metadata: &'a Value,
    location: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<&'a str>,
}

impl Events {
    /// Adds a client; its queue ends when the client was too slow or the daemon stops.
    pub fn subscribe(&self, interest: Interest) -> mpsc::Receiver<Utf8Bytes> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        let mut subscribers = self.hub.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|s| !s.queue.is_closed());
        subscribers.push(Subscriber { interest, queue });
        self.count(&subscribers);
        receiver
    }

    /// Sends an event to all who want it.
    pub fn publish(&self, kind: Kind, project: Option<&str>, metadata: &Value) {
        let mut subscribers = self.hub.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        if !subscribers.iter().any(|s| s.interest.wants(kind, project)) {
            return;
        }
        let wire = Wire { r#type: kind.name(), timestamp: Timestamp::now(), metadata, location: "none", project };
        let Ok(text) = serde_json::to_string(&wire) else { return };
        let text = Utf8Bytes::from(text);
        let before = subscribers.len();
        subscribers.retain(|s| !s.interest.wants(kind, project) || s.queue.try_send(text.clone()).is_ok());
        if subscribers.len() != before {
            self.count(&subscribers);
        }
    }

    /// Sends a lifecycle event.
    pub fn lifecycle(&self, event: Lifecycle<'_>) {
        let context = if event.context.is_null() { json!({}) } else { event.context };
        let mut metadata = json!({"action": event.action, "source": event.source, "context": context});
        if let Some(requestor) = event.requestor {
            metadata["requestor"] = json!(requestor);
        }
        self.publish(Kind::Lifecycle, event.project, &metadata);
    }

    /// Ends all queues: the daemon stops.
    pub fn close(&self) {
        let mut subscribers = self.hub.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.clear();
        self.count(&subscribers);
    }

    fn has_log_readers(&self) -> bool {
        self.hub.log_readers.load(Ordering::Relaxed) > 0
    }

    fn count(&self, subscribers: &[Subscriber]) {
        let readers = subscribers.iter().filter(|s| s.interest.kinds.contains(&Kind::Logging)).count();
        self.hub.log_readers.store(readers, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interest(kinds: &[Kind], project: Option<&str>) -> Interest {
        Interest { kinds: kinds.to_vec(), project: project.map(str::to_owned), only_project: false }
    }

    #[tokio::test]
    async fn clients_hear_what_they_asked_for() {
        let events = Events::default();
        let mut mine = events.subscribe(interest(&[Kind::Operation], Some("a")));
        let mut confined = events.subscribe(Interest { only_project: true, ..interest(&[Kind::Operation], Some("a")) });
        let mut all = events.subscribe(interest(&Kind::ALL, None));
        events.publish(Kind::Operation, Some("b"), &json!({"n": 1}));
        events.publish(Kind::Operation, Some("a"), &json!({"n": 2}));
        events.publish(Kind::Lifecycle, Some("a"), &json!({"n": 3}));
        events.publish(Kind::Operation, None, &json!({"n": 4}));
        let number = |text: Utf8Bytes| serde_json::from_str::<Value>(&text).unwrap()["metadata"]["n"].as_i64().unwrap();
        assert_eq!(number(mine.recv().await.unwrap()), 2);
        assert_eq!(number(mine.recv().await.unwrap()), 4);
        for n in 1..=4 {
            assert_eq!(number(all.recv().await.unwrap()), n);
        }
        events.close();
        assert!(mine.recv().await.is_none());
        assert_eq!(number(confined.recv().await.unwrap()), 2);
        assert!(confined.recv().await.is_none(), "what is of no project is not for it");
    }

    #[tokio::test]
    async fn a_slow_client_is_dropped_and_the_others_are_served() {
        let events = Events::default();
        let mut slow = events.subscribe(interest(&[Kind::Logging], None));
        for n in 0..=QUEUE {
            events.publish(Kind::Logging, None, &json!({"n": n}));
        }
        assert!(!events.has_log_readers());
        let mut read = 0;
        while slow.recv().await.is_some() {
            read += 1;
        }
        assert_eq!(read, QUEUE);
    }

    #[tokio::test]
    async fn a_lifecycle_event_names_its_requestor() {
        let events = Events::default();
        let mut client = events.subscribe(interest(&[Kind::Lifecycle], Some("default")));
        let caller = Caller { username: "root".into(), protocol: "unix", address: "@".into() };
        events.lifecycle(Lifecycle {
            action: "profile-created",
            source: "/1.0/profiles/p".into(),
            context: Value::Null,
            requestor: Some(&caller),
            project: Some("default"),
        });
        let event: Value = serde_json::from_str(&client.recv().await.unwrap()).unwrap();
        assert_eq!(event["metadata"]["requestor"]["username"], "root");
        assert_eq!(event["metadata"]["context"], json!({}));
        assert_eq!(event["project"], "default");
        assert_eq!(event["location"], "none");
    }
}
