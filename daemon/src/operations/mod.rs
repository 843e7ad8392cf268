//! Operations: what the daemon does in the background for its clients.
//!
//! A handler describes the work ([`Spec`]) and hands over a future; the reply is sent while it runs. Each change
//! is an event. An operation is kept for [`KEEP`] after its end so that a client can still ask how it went.

mod operation;
mod sockets;
mod types;

use std::{
    collections::HashMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::response::Response;
use futures::FutureExt;
use serde_json::{Map, Value};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use operation::Operation;
pub use sockets::{CONNECT, Expected, Slot, Sockets, secret};
pub use types::{Class, Spec, State, Status};

use crate::{
    events::{Events, Kind},
    http::{ApiError, ApiResult, Caller, envelope},
};

/// How long an operation can be asked for after its end.
pub const KEEP: Duration = Duration::from_secs(5);
/// Operations that may exist at a time.
const MAX_OPERATIONS: usize = 16 * 1024;

/// The registry; clones share it.
#[derive(Clone)]
pub struct Operations {
    inner: Arc<Inner>,
}

struct Inner {
    all: Mutex<HashMap<Uuid, Arc<Operation>>>,
    events: Events,
    tasks: TaskTracker,
    stopping: CancellationToken,
    keep: Duration,
}

/// An operation's hold on itself while it runs.
#[derive(Clone)]
pub struct Context {
    operation: Arc<Operation>,
    operations: Operations,
}

impl Context {
    /// The operation's id.
    pub fn id(&self) -> Uuid {
        self.operation.id()
    }

    /// Who made the operation.
    pub fn caller(&self) -> &Caller {
        self.operation.caller()
    }

    /// Sets one key of the metadata.
    pub fn set(&self, key: &str, value: impl Into<Value>) {
        self.merge(Map::from_iter([(key.to_owned(), value.into())]));
    }

    /// Sets keys of the metadata; nothing is told if they have these values already.
    pub fn merge(&self, values: Map<String, Value>) {
        let changed = self.operation.change_if(|state| {
            if values.iter().all(|(key, value)| state.metadata.get(key) == Some(value)) {
                return false;
            }
            state.metadata.extend(values);
            true
        });
        if changed {
            self.operations.tell(&self.operation);
        }
    }
}

/// Metadata that an operation adds at its end; `()` adds none.
#[derive(Debug, Default)]
pub struct Results(Map<String, Value>);

impl From<()> for Results {
    fn from((): ()) -> Self {
        Self::default()
    }
}

impl From<Map<String, Value>> for Results {
    fn from(metadata: Map<String, Value>) -> Self {
        Self(metadata)
    }
}

impl Operations {
    /// An empty registry that tells changes to `events`.
    pub fn new(events: Events) -> Self {
        Self::keeping(events, KEEP)
    }

    fn keeping(events: Events, keep: Duration) -> Self {
        let inner = Inner {
            all: Mutex::new(HashMap::new()),
            events,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            keep,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts the work.
    pub fn spawn<F, W, T>(&self, spec: Spec, work: F) -> ApiResult<Arc<Operation>>
    where
        F: FnOnce(Context) -> W,
        W: Future<Output = ApiResult<T>> + Send + 'static,
        T: Into<Results> + Send + 'static,
    {
        self.spawn_with(spec, Sockets::default(), work)
    }

    /// Starts the work and replies with the operation.
    pub fn accept<F, W, T>(&self, spec: Spec, work: F) -> ApiResult
    where
        F: FnOnce(Context) -> W,
        W: Future<Output = ApiResult<T>> + Send + 'static,
        T: Into<Results> + Send + 'static,
    {
        self.spawn(spec, work).map(|operation| Self::reply(&operation))
    }

    /// Starts work that uses websockets.
    pub fn spawn_with<F, W, T>(&self, spec: Spec, sockets: Sockets, work: F) -> ApiResult<Arc<Operation>>
    where
        F: FnOnce(Context) -> W,
        W: Future<Output = ApiResult<T>> + Send + 'static,
        T: Into<Results> + Send + 'static,
    {
        if self.inner.stopping.is_cancelled() {
            return Err(ApiError::unavailable("Berth is shutting down"));
        }
        let operation = Arc::new(Operation::new(spec, sockets));
        {
            let mut all = self.lock();
            if all.len() >= MAX_OPERATIONS {
                return Err(ApiError::unavailable(format!(
                    "There are {MAX_OPERATIONS} operations already; wait until some have ended"
                )));
            }
            all.insert(operation.id(), operation.clone());
        }
        self.tell(&operation);
        operation.change(|state| state.status = Status::Running);
        self.tell(&operation);
        let work = work(Context { operation: operation.clone(), operations: self.clone() });
        self.inner.tasks.spawn(self.clone().run(operation.clone(), work));
        Ok(operation)
    }

    /// The 202 for its creator.
    pub fn reply(operation: &Operation) -> Response {
        envelope::accepted(&operation.url(), operation.render_for_creator())
    }

    async fn run<T: Into<Results>>(self, operation: Arc<Operation>, work: impl Future<Output = ApiResult<T>>) {
        let work = AssertUnwindSafe(work).catch_unwind();
        let result = tokio::select! {
            biased;
            () = operation.cancel.cancelled() => None,
            result = work => Some(result.unwrap_or_else(|_| Err(ApiError::internal("Internal error: the operation panicked")))),
        };
        operation.change(|state| match result {
            None => (state.status, state.err) = (Status::Cancelled, "Operation cancelled".to_owned()),
            Some(Ok(results)) => {
                state.metadata.extend(results.into().0);
                state.status = Status::Success;
            }
            Some(Err(error)) => (state.status, state.err) = (Status::Failure, error.to_string()),
        });
        self.tell(&operation);
        // Not tracked: nobody waits for this at the daemon's end.
        tokio::spawn(async move {
            tokio::time::sleep(self.inner.keep).await;
            self.lock().remove(&operation.id());
        });
    }

    /// One operation.
    pub fn get(&self, id: &str) -> ApiResult<Arc<Operation>> {
        Uuid::parse_str(id).ok().and_then(|id| self.lock().get(&id).cloned()).ok_or_else(|| {
            ApiError::not_found(format!(
                "Operation \"{}\" not found: it never was, or ended a while ago",
                id.escape_debug()
            ))
        })
    }

    /// All operations of a project and of none; `None`: all there are. Oldest first.
    pub fn list(&self, project: Option<&str>) -> Vec<Arc<Operation>> {
        let mut list: Vec<_> = self
            .lock()
            .values()
            .filter(|op| project.is_none() || op.project().is_none() || op.project() == project)
            .cloned()
            .collect();
        list.sort_by_key(|op| op.created_at());
        list
    }

    /// Cancels an operation that allows it.
    pub fn cancel(&self, id: &str) -> ApiResult<()> {
        let operation = self.get(id)?;
        if !operation.may_cancel() {
            return Err(ApiError::invalid("This operation can't be cancelled"));
        }
        operation.change(|state| state.status = Status::Cancelling);
        self.tell(&operation);
        operation.cancel.cancel();
        Ok(())
    }

    /// Takes the websocket that a secret opens; only the operation's creator may.
    pub fn socket(&self, id: &str, secret: &str, caller: &Caller) -> ApiResult<Slot> {
        let operation = self.get(id)?;
        if operation.class() != Class::Websocket {
            return Err(ApiError::invalid("Only websocket operations can be connected"));
        }
        let refused = || ApiError::forbidden("The secret is wrong or was used already");
        if !operation.caller().is_same_user(caller) {
            return Err(refused());
        }
        operation.sockets.take(secret).ok_or_else(refused)
    }

    /// Who has an operation at work on an object.
    pub fn requestor(&self, kind: &str, url: &str) -> Option<Caller> {
        self.lock()
            .values()
            .filter(|op| op.works_on(kind, url))
            .max_by_key(|op| (!op.status().is_final(), op.created_at()))
            .map(|op| op.caller().clone())
    }

    /// Takes no new operations, ends those that wait for a client (websockets, tokens) and waits for the others.
    /// Tells how many are still at work after `patience`.
    pub async fn stop(&self, patience: Duration) -> usize {
        self.inner.stopping.cancel();
        for operation in self.list(None).iter().filter(|op| op.class() != Class::Task) {
            operation.cancel.cancel();
        }
        self.inner.tasks.close();
        let _ = tokio::time::timeout(patience, self.inner.tasks.wait()).await;
        self.inner.tasks.len()
    }

    fn tell(&self, operation: &Operation) {
        self.inner.events.publish(Kind::Operation, operation.project(), &operation.render());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Arc<Operation>>> {
        self.inner.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
