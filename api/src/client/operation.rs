//! Requests that go on in the background, and their end.

use http::Method;
use serde_json::Value;

use super::{
    Answer, Client, Endpoint, EventStream,
    error::{Error, Result},
};
use crate::{ResponseType, StatusCode, events, operations::Operation};

/// How a request ended.
#[derive(Debug, Clone)]
pub enum Done {
    /// At once, with this result.
    Sync(Value),
    /// As this operation.
    Background(Box<Operation>),
}

impl Done {
    /// The operation, if there was one.
    #[must_use]
    pub fn operation(self) -> Option<Operation> {
        match self {
            Self::Sync(_) => None,
            Self::Background(operation) => Some(*operation),
        }
    }
}

impl Client {
    /// Sends a request and waits for its end, however it is done. `watch` is told each change of the operation.
    ///
    /// # Errors
    /// If the request or its operation fails.
    pub async fn run(
        &self,
        method: Method,
        endpoint: &Endpoint,
        body: Option<Vec<u8>>,
        etag: Option<&str>,
        watch: &mut (dyn FnMut(&Operation) + Send),
    ) -> Result<Done> {
        let answer = self.request(method, endpoint, body, etag).await?;
        self.finish(answer, watch).await
    }

    /// Waits for the end of an answered request. `watch` is told each change of the operation.
    ///
    /// # Errors
    /// If the operation fails or the connection breaks.
    pub async fn finish(&self, answer: Answer, watch: &mut (dyn FnMut(&Operation) + Send)) -> Result<Done> {
        if answer.response.kind != ResponseType::Async {
            return Ok(Done::Sync(answer.response.metadata));
        }
        let url = answer.response.operation.clone();
        let operation: Operation = answer.into(&url)?;
        watch(&operation);
        Ok(Done::Background(Box::new(self.wait_operation(operation, watch).await?)))
    }

    /// Waits for the end of an operation. Its changes come from the events websocket, its end from whichever is
    /// first of that and the `wait` request: no event can be lost, and a server without events still works.
    ///
    /// # Errors
    /// If the operation fails or the connection breaks.
    pub async fn wait_operation(
        &self,
        operation: Operation,
        watch: &mut (dyn FnMut(&Operation) + Send),
    ) -> Result<Operation> {
        if operation.status_code.is_final() {
            return ended(operation);
        }
        let endpoint = Endpoint::new(&["operations", &operation.id, "wait"]).query("timeout", "-1");
        let mut end = std::pin::pin!(self.get::<Operation>(&endpoint));
        let mut changes = std::pin::pin!(self.watch_operation(&operation.id, watch));
        tokio::select! {
            biased;
            Some(operation) = &mut changes => ended(operation),
            operation = &mut end => ended(operation?),
        }
    }

    /// Waits for the end of an operation without following its changes.
    ///
    /// # Errors
    /// If the operation fails or the connection breaks.
    pub async fn wait_end(&self, operation: &Operation) -> Result<Operation> {
        let endpoint = Endpoint::new(&["operations", &operation.id, "wait"]).query("timeout", "-1");
        ended(self.get(&endpoint).await?)
    }

    /// Follows an operation by its events; `None` if they cannot be had.
    async fn watch_operation(&self, id: &str, watch: &mut (dyn FnMut(&Operation) + Send)) -> Option<Operation> {
        let mut events: EventStream = self.events(&[events::TYPE_OPERATION], true).await.ok()?;
        while let Ok(Some(event)) = events.next().await {
            let Ok(operation) = serde_json::from_value::<Operation>(event.metadata) else { continue };
            if operation.id != id {
                continue;
            }
            watch(&operation);
            if operation.status_code.is_final() {
                return Some(operation);
            }
        }
        None
    }

    /// Asks the server to cancel an operation.
    ///
    /// # Errors
    /// If it cannot be cancelled.
    pub async fn cancel_operation(&self, id: &str) -> Result<()> {
        self.request(Method::DELETE, &Endpoint::new(&["operations", id]), None, None).await.map(|_| ())
    }
}

/// The operation, or the error it ended with. An `exec` that ran its command counts as done whatever its status.
fn ended(operation: Operation) -> Result<Operation> {
    if operation.status_code == StatusCode::SUCCESS || operation.exit_code().is_some() {
        return Ok(operation);
    }
    let message = if operation.err.is_empty() {
        format!("{} ended as {}", operation.description, operation.status)
    } else {
        operation.err
    };
    Err(Error::Operation { code: operation.status_code.0, message })
}
