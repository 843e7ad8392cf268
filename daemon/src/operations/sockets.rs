//! The websockets of an operation: each has a name and a secret that opens it once.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::extract::ws::WebSocket;
use rand::RngCore;
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::http::{ApiError, ApiResult};

/// How long a client has to connect.
pub const CONNECT: Duration = Duration::from_secs(5);

/// A secret of 64 hexadecimal digits.
pub fn secret() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// A websocket that was asked for and not connected yet; connecting consumes it.
pub type Slot = oneshot::Sender<WebSocket>;

/// The side of the registry: what secrets open.
#[derive(Debug, Default)]
pub struct Sockets {
    slots: Mutex<HashMap<String, Slot>>,
}

/// The side of the operation: what it waits for.
#[derive(Debug)]
pub struct Expected {
    waiting: HashMap<&'static str, oneshot::Receiver<WebSocket>>,
    deadline: Instant,
}

impl Sockets {
    /// Makes sockets with these names; the operation waits `patience` for them. The map tells the creator the secrets by name.
    pub fn new(names: &[&'static str], patience: Duration) -> (Self, Expected, Map<String, Value>) {
        let mut slots = HashMap::new();
        let mut waiting = HashMap::new();
        let mut secrets = Map::new();
        for name in names {
            let (slot, receiver) = oneshot::channel();
            let secret = secret();
            secrets.insert((*name).to_owned(), Value::String(secret.clone()));
            slots.insert(secret, slot);
            waiting.insert(*name, receiver);
        }
        let expected = Expected { waiting, deadline: Instant::now() + patience };
        (Self { slots: Mutex::new(slots) }, expected, secrets)
    }

    /// Takes what the secret opens. It opens it once.
    pub fn take(&self, secret: &str) -> Option<Slot> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(secret).filter(|slot| !slot.is_closed())
    }
}

impl Expected {
    /// Waits for the websocket of that name until the common deadline.
    pub async fn connect(&mut self, name: &'static str) -> ApiResult<WebSocket> {
        let late = || ApiError::internal("Timed out waiting for websockets to connect");
        let receiver = self.waiting.remove(name).ok_or_else(late)?;
        timeout_at(self.deadline, receiver).await.map_err(|_| late())?.map_err(|_| late())
    }

    /// The websocket of that name whenever it comes, without a deadline.
    pub fn later(&mut self, name: &'static str) -> Option<oneshot::Receiver<WebSocket>> {
        self.waiting.remove(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_opens_one_socket_once() {
        let (sockets, _expected, secrets) = Sockets::new(&["0", "control"], CONNECT);
        let secret = secrets["0"].as_str().unwrap();
        assert_eq!(secret.len(), 64);
        assert_ne!(secrets["0"], secrets["control"]);
        assert!(sockets.take("wrong").is_none());
        assert!(sockets.take(secret).is_some());
        assert!(sockets.take(secret).is_none());
    }

    #[tokio::test]
    async fn a_client_that_does_not_connect_is_not_waited_for() {
        let (sockets, mut expected, secrets) = Sockets::new(&["0"], Duration::from_millis(10));
        let error = expected.connect("0").await.unwrap_err();
        assert_eq!(error.to_string(), "Timed out waiting for websockets to connect");
        assert!(sockets.take(secrets["0"].as_str().unwrap()).is_none(), "nobody listens any more");
    }
}
