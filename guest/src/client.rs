//! The host's half of the protocol, for the daemon.
//!
//! Works on any connected stream to a guest end: to the agent of a virtual machine (see [`connect_vsock`]) and to a
//! container's helper. Each function uses up its connection, because a connection carries one request.

mod exec;
mod file;

use std::{io, path::Path};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use crate::{
    frame,
    protocol::{ErrorKind, GuestError, GuestState, Reply, Request},
};

pub use exec::{Exec, Exit, exec};
pub use file::{Body, FileSession, FileWriter, file, read, write};

/// Longest answer of a vsock socket to `CONNECT`.
const MAX_ANSWER: usize = 64;

/// Why a request to a guest failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The guest end refused or failed.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The connection broke.
    #[error("the connection to the guest's agent broke ({0}); check that the instance still runs")]
    Connection(#[source] io::Error),
    /// The connection was closed before the answer.
    #[error("the guest's agent closed the connection before it answered; check that the instance still runs")]
    Closed,
    /// The guest end does not keep to the protocol.
    #[error("the guest's agent answered {0}, which was not asked for; its version may not fit this daemon's")]
    Unexpected(String),
    /// Nobody listens on the port.
    #[error("nothing in the guest listens on vsock port {port}; its agent may not be up yet")]
    NotListening {
        /// The port.
        port: u32,
    },
    /// What should be sent to the guest could not be read.
    #[error("cannot read the content to send to the guest: {0}")]
    Source(#[source] io::Error),
}

impl ClientError {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Guest(error) => error.kind,
            Self::NotListening { .. } => ErrorKind::NotSupported,
            _ => ErrorKind::Other,
        }
    }
}

/// Connects to a vsock port of a guest whose machine process listens on `socket`.
pub async fn connect_vsock(socket: &Path, port: u32) -> Result<UnixStream, ClientError> {
    let mut stream = UnixStream::connect(socket).await.map_err(ClientError::Connection)?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(ClientError::Connection)?;
    // Byte by byte: what follows the line belongs to the guest's stream.
    let mut answer = Vec::new();
    loop {
        let mut byte = [0];
        match stream.read(&mut byte).await {
            Ok(0) => return Err(ClientError::NotListening { port }),
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => answer.push(byte[0]),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(ClientError::NotListening { port }),
            Err(e) => return Err(ClientError::Connection(e)),
        }
        if answer.len() > MAX_ANSWER {
            break;
        }
    }
    if answer.starts_with(b"OK ") {
        return Ok(stream);
    }
    Err(ClientError::Unexpected(String::from_utf8_lossy(&answer).into_owned()))
}

/// Sends a request that has a single answer.
pub async fn simple(mut stream: UnixStream, request: Request) -> Result<Reply, ClientError> {
    send(&mut stream, &request).await?;
    receive(&mut stream).await
}

/// Asks for the guest's state.
pub async fn state(stream: UnixStream) -> Result<GuestState, ClientError> {
    match simple(stream, Request::State).await? {
        Reply::State(state) => Ok(state),
        other => Err(unexpected(&other)),
    }
}

async fn send(stream: &mut UnixStream, request: &Request) -> Result<(), ClientError> {
    frame::write_json_async(stream, request).await.map_err(ClientError::Connection)
}

/// Reads one reply; a [`Reply::Error`] becomes an error.
async fn receive(stream: &mut UnixStream) -> Result<Reply, ClientError> {
    reply(frame::read_async(stream).await)
}

fn reply(received: io::Result<Option<frame::Frame>>) -> Result<Reply, ClientError> {
    let frame = received.map_err(ClientError::Connection)?.ok_or(ClientError::Closed)?;
    match frame.parse::<Reply>().map_err(ClientError::Connection)? {
        Reply::Error(error) => Err(error.into()),
        reply => Ok(reply),
    }
}

fn unexpected(reply: &Reply) -> ClientError {
    let mut text = format!("{reply:?}");
    let end = text.char_indices().nth(100).map_or(text.len(), |(at, _)| at);
    text.truncate(end);
    ClientError::Unexpected(text)
}

#[cfg(test)]
mod tests;
