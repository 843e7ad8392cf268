//! Websockets: frames of operations, and events.

use bytes::Bytes;
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UnixStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use super::{
    Client, Endpoint, MAX_ERROR,
    error::{Error, Result},
};
use crate::{Response, events::Event, operations::Operation};

/// Largest message that is read; an event holds one operation or instance.
const MAX_MESSAGE: usize = 16 << 20;
/// Bytes read from a local stream for one frame.
const CHUNK: usize = 64 << 10;

type Stream = WebSocketStream<UnixStream>;

/// What comes in on a websocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Data of the stream.
    Data(Bytes),
    /// A text message that is not empty.
    Text(String),
    /// The other side has no more data: an empty text message.
    End,
}

/// A websocket of the daemon.
#[derive(Debug)]
pub struct WebSocket {
    stream: Stream,
    name: String,
}

/// The reading half of a [`WebSocket`].
#[derive(Debug)]
pub struct WebSocketReader {
    stream: SplitStream<Stream>,
    name: String,
}

/// The writing half of a [`WebSocket`].
#[derive(Debug)]
pub struct WebSocketWriter {
    stream: SplitSink<Stream, Message>,
    name: String,
}

impl Client {
    /// Opens a websocket.
    ///
    /// # Errors
    /// If the daemon cannot be reached or refuses it.
    pub async fn websocket(&self, endpoint: &Endpoint) -> Result<WebSocket> {
        let endpoint = self.in_project(endpoint);
        let stream = self.shared.connect().await?;
        let url = format!("ws://unix.socket{endpoint}");
        // Secrets are in the query: keep them out of error texts.
        let name = endpoint.as_str().split('?').next().unwrap_or_default().to_owned();
        let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        match client_async_with_config(url, stream, Some(config)).await {
            Ok((stream, _)) => Ok(WebSocket { stream, name }),
            Err(tungstenite::Error::Http(response)) => Err(refused(&response)),
            Err(error) => Err(Error::broken(name, error)),
        }
    }

    /// Opens a websocket of an operation by its secret.
    ///
    /// # Errors
    /// If the daemon cannot be reached or refuses it.
    pub async fn operation_websocket(&self, operation: &Operation, secret: &str) -> Result<WebSocket> {
        let endpoint = Endpoint::new(&["operations", &operation.id, "websocket"]).query("secret", secret);
        self.websocket(&endpoint).await
    }

    /// Listens to events; without `types` to all of them.
    ///
    /// # Errors
    /// If the daemon cannot be reached or refuses it.
    pub async fn events(&self, types: &[&str], all_projects: bool) -> Result<EventStream> {
        let mut endpoint = Endpoint::new(&["events"]).flag("all-projects", all_projects);
        if !types.is_empty() {
            endpoint = endpoint.query("type", &types.join(","));
        }
        Ok(EventStream { socket: self.websocket(&endpoint).await? })
    }
}

fn refused(response: &http::Response<Option<Vec<u8>>>) -> Error {
    let code = response.status().as_u16();
    let body = response.body().as_deref().unwrap_or_default();
    let message = match serde_json::from_slice::<Response>(body) {
        Ok(envelope) if !envelope.error.is_empty() => envelope.error,
        _ => {
            let text = String::from_utf8_lossy(&body[..body.len().min(MAX_ERROR)]).trim().to_owned();
            if text.is_empty() { response.status().to_string() } else { text }
        }
    };
    Error::Api { code, message }
}

impl WebSocket {
    /// The next frame; `None` when the server closed the socket.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        next_frame(&mut self.stream, &self.name).await
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn send_text(&mut self, text: &str) -> Result<()> {
        self.stream.send(Message::text(text)).await.map_err(|error| Error::broken(&self.name, error))
    }

    /// Both halves, for tasks that read and write at once.
    #[must_use]
    pub fn split(self) -> (WebSocketReader, WebSocketWriter) {
        let (sink, stream) = self.stream.split();
        (WebSocketReader { stream, name: self.name.clone() }, WebSocketWriter { stream: sink, name: self.name })
    }
}

impl WebSocketReader {
    /// The next frame; `None` when the server closed the socket.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        next_frame(&mut self.stream, &self.name).await
    }

    /// Copies data to `output` until its end. An output that nobody reads any more ends the copy too.
    ///
    /// # Errors
    /// If the connection breaks or `output` fails.
    pub async fn copy_to(&mut self, output: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
        while let Some(frame) = self.next().await? {
            let Frame::Data(data) = frame else { break };
            let written = async {
                output.write_all(&data).await?;
                output.flush().await
            };
            match written.await {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
                Err(source) => return Err(Error::Local { what: "cannot write output".into(), source }),
            }
        }
        Ok(())
    }
}

impl WebSocketWriter {
    /// Sends data.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn send(&mut self, data: Bytes) -> Result<()> {
        self.stream.send(Message::Binary(data)).await.map_err(|error| Error::broken(&self.name, error))
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn send_text(&mut self, text: &str) -> Result<()> {
        self.stream.send(Message::text(text)).await.map_err(|error| Error::broken(&self.name, error))
    }

    /// Says that there is no more data.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn end(&mut self) -> Result<()> {
        self.send_text("").await
    }

    /// Copies `input` to its end and says so.
    ///
    /// # Errors
    /// If the connection breaks or `input` fails.
    pub async fn copy_from(&mut self, input: &mut (impl AsyncRead + Unpin)) -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = input
                .read(&mut buffer)
                .await
                .map_err(|source| Error::Local { what: "cannot read input".into(), source })?;
            if count == 0 {
                return self.end().await;
            }
            self.send(Bytes::copy_from_slice(&buffer[..count])).await?;
        }
    }
}

async fn next_frame<S>(stream: &mut S, name: &str) -> Result<Option<Frame>>
where
    S: futures::Stream<Item = tungstenite::Result<Message>> + Unpin,
{
    loop {
        return match stream.next().await {
            Some(Ok(Message::Binary(data))) => Ok(Some(Frame::Data(data))),
            Some(Ok(Message::Text(text))) if text.is_empty() => Ok(Some(Frame::End)),
            Some(Ok(Message::Text(text))) => Ok(Some(Frame::Text(text.as_str().to_owned()))),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(_))) | None => Ok(None),
            Some(Err(error)) if closed(&error) => Ok(None),
            Some(Err(error)) => Err(Error::broken(name, error)),
        };
    }
}

/// Whether the peer simply went: LXD closes the connection without a close frame.
fn closed(error: &tungstenite::Error) -> bool {
    matches!(
        error,
        tungstenite::Error::ConnectionClosed
            | tungstenite::Error::AlreadyClosed
            | tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)
    )
}

/// Events of the daemon.
#[derive(Debug)]
pub struct EventStream {
    socket: WebSocket,
}

impl EventStream {
    /// The next event; `None` when the daemon stopped.
    ///
    /// # Errors
    /// If the connection breaks or a message is not an event.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        Ok(match self.next_text().await? {
            Some(text) => Some(serde_json::from_str(&text).map_err(|error| Error::protocol(&self.socket.name, error))?),
            None => None,
        })
    }

    /// The next event as its JSON text.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn next_text(&mut self) -> Result<Option<String>> {
        loop {
            match self.socket.next().await? {
                Some(Frame::Text(text)) => return Ok(Some(text)),
                Some(Frame::Data(data)) => return Ok(Some(String::from_utf8_lossy(&data).into_owned())),
                Some(Frame::End) => {}
                None => return Ok(None),
            }
        }
    }
}
