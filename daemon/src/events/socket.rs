//! An events websocket.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

/// Time between pings.
pub const PING: Duration = Duration::from_secs(10);
/// How long one write may block before the client counts as gone.
const WRITE: Duration = Duration::from_secs(30);

/// Sends queued events until the client or the queue ends.
pub async fn serve(mut socket: WebSocket, mut queue: mpsc::Receiver<Utf8Bytes>) {
    let mut ping = interval_at(tokio::time::Instant::now() + PING, PING);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            event = queue.recv() => match event {
                Some(text) => Message::Text(text),
                None => break,
            },
            incoming = socket.recv() => match incoming {
                // Clients have nothing to say here; pings are answered by the library.
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
            _ = ping.tick() => Message::Ping("keepalive".into()),
        };
        if !matches!(timeout(WRITE, socket.send(message)).await, Ok(Ok(()))) {
            return;
        }
    }
    let close = CloseFrame { code: close_code::AWAY, reason: Utf8Bytes::from_static("") };
    let _ = timeout(WRITE, socket.send(Message::Close(Some(close)))).await;
}
