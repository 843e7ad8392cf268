//! Moves bytes between websockets and what they are connected to in an instance.
//!
//! Data goes in binary frames; an empty text frame is the end of a stream in either direction. Only a close frame or
//! the loss of the connection ends a websocket.

use std::{future::pending, time::Duration};

use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use berth_instances::{Reader, Writer};
use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// Time between pings.
const PING: Duration = Duration::from_secs(10);
/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// How long output may be silent after the program ended before it counts as complete: what it wrote is in the pipe
/// already, and a child that it left behind may keep the pipe open for ever.
const QUIET: Duration = Duration::from_millis(100);
/// How long such a child may go on writing.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a client may take to answer a close frame.
const CLOSE: Duration = Duration::from_secs(2);

/// Sending half of a websocket.
pub type Sink = SplitSink<WebSocket, Message>;
/// Receiving half of a websocket.
pub type Source = SplitStream<WebSocket>;

fn pings() -> tokio::time::Interval {
    let mut pings = interval_at(Instant::now() + PING, PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

fn ping() -> Message {
    Message::Ping(Bytes::from_static(b"keepalive"))
}

/// Sends output until its end, or until it is silent after `exited`; then the end of the stream. `false` if the client
/// is gone.
pub async fn send_output(mut output: Reader, sink: &mut Sink, exited: &CancellationToken) -> bool {
    let mut pings = pings();
    let mut buffer = vec![0; CHUNK];
    // Set once the program ended: when to stop waiting for more, and when to stop anyway.
    let mut quiet = None;
    let mut end = None;
    loop {
        let message = tokio::select! {
            biased;
            read = output.read(&mut buffer) => match read {
                // A terminal whose last user is gone fails to read; that is its end.
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    quiet = quiet.map(|_| Instant::now() + QUIET);
                    Message::Binary(Bytes::copy_from_slice(&buffer[..n]))
                }
            },
            () = exited.cancelled(), if end.is_none() => {
                quiet = Some(Instant::now() + QUIET);
                end = Some(Instant::now() + DRAIN);
                continue;
            }
            () = until(quiet.min(end)) => break,
            _ = pings.tick() => ping(),
        };
        if end.is_some_and(|end| Instant::now() > end) {
            break;
        }
        if sink.send(message).await.is_err() {
            return false;
        }
    }
    sink.send(Message::Text(Utf8Bytes::from_static(""))).await.is_ok()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Reads output to its end (as [`send_output`] does) and writes at most `cap` bytes of it to `keep`.
pub async fn keep_output(
    mut output: Reader,
    keep: &mut (impl AsyncWrite + Unpin),
    cap: u64,
    exited: &CancellationToken,
) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut left = cap;
    let mut result = Ok(());
    let mut quiet = None;
    let mut end = None;
    loop {
        tokio::select! {
            biased;
            read = output.read(&mut buffer) => match read {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    // After a failure the rest is read all the same: the program must not notice.
                    let length = if result.is_ok() { n.min(usize::try_from(left).unwrap_or(usize::MAX)) } else { 0 };
                    left -= length as u64;
                    result = result.and(keep.write_all(&buffer[..length]).await);
                    quiet = quiet.map(|_| Instant::now() + QUIET);
                    if end.is_some_and(|end| Instant::now() > end) {
                        break;
                    }
                }
            },
            () = exited.cancelled(), if end.is_none() => {
                quiet = Some(Instant::now() + QUIET);
                end = Some(Instant::now() + DRAIN);
            }
            () = until(quiet.min(end)) => break,
        }
    }
    result.and(keep.flush().await)
}

/// Writes what the client sends until the connection ends. At the client's end of stream the input is closed,
/// unless `keep_open` (a terminal has no end of its own).
pub async fn receive_input(source: &mut Source, input: Writer, keep_open: bool) {
    let mut input = Some(input);
    while let Some(Ok(message)) = source.next().await {
        let data: &[u8] = match &message {
            Message::Binary(data) => data,
            Message::Text(text) if text.is_empty() => {
                if !keep_open && let Some(mut input) = input.take() {
                    let _ = input.shutdown().await;
                }
                continue;
            }
            Message::Text(text) => text.as_bytes(),
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => break,
        };
        // The program may not read to the end; the client need not care.
        let failed = match &mut input {
            Some(input) => input.write_all(data).await.is_err() || input.flush().await.is_err(),
            None => false,
        };
        if failed {
            input = None;
        }
    }
}

/// Sends on what `parse` makes of each message until the connection ends.
pub async fn receive_control<T>(source: &mut Source, parse: impl Fn(&str) -> Option<T>, to: &mpsc::Sender<T>) {
    while let Some(Ok(message)) = source.next().await {
        let parsed = match &message {
            Message::Text(text) => parse(text),
            // Some clients send their JSON in binary frames.
            Message::Binary(data) => std::str::from_utf8(data).ok().and_then(&parse),
            Message::Ping(_) | Message::Pong(_) => None,
            Message::Close(_) => return,
        };
        if let Some(parsed) = parsed {
            // Whoever would obey may have ended.
            let _ = to.send(parsed).await;
        }
    }
}

/// Reads a websocket on which nothing but answers to pings is expected, until the connection ends.
pub async fn receive_nothing(source: &mut Source) {
    while let Some(Ok(message)) = source.next().await {
        if matches!(message, Message::Close(_)) {
            return;
        }
    }
}

/// Keeps a websocket alive on which nothing is sent. Ends when the client is gone.
pub async fn keep_alive(sink: &mut Sink) {
    let mut pings = pings();
    loop {
        pings.tick().await;
        if sink.send(ping()).await.is_err() {
            return;
        }
    }
}

/// Ends a websocket politely, in the background.
pub fn close(mut sink: Sink, source: Source) {
    tokio::spawn(async move {
        let polite = async {
            if sink.send(Message::Close(None)).await.is_ok() {
                let mut source = source;
                while let Some(Ok(_)) = source.next().await {}
            }
        };
        let _ = timeout(CLOSE, polite).await;
    });
}
