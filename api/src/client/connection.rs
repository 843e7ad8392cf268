//! Connections to the socket, and the one that is kept for the next request.

use std::{io, sync::PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{
    Shared,
    error::{Error, Result},
};

/// Body of a request.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;
pub(super) type Sender = SendRequest<Body>;

impl Shared {
    /// Connects to the socket.
    pub(super) async fn connect(&self) -> Result<UnixStream> {
        UnixStream::connect(&self.socket).await.map_err(|error| {
            let socket = self.socket.clone();
            match error.kind() {
                io::ErrorKind::PermissionDenied => Error::Denied { socket },
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NoDaemon { socket, reason: error },
                _ => Error::Connect { socket, source: error },
            }
        })
    }

    async fn open(&self, name: &str) -> Result<Sender> {
        let stream = self.connect().await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| Error::broken(name, error))?;
        // Ends with the sender or the server; its errors also reach the request.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Sends a request on the idle connection or a new one. The caller hands the sender back with [`Shared::keep`]
    /// when it has read the whole answer.
    pub(super) async fn send(&self, request: Request<Body>, name: &str) -> Result<(Response<Incoming>, Sender)> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut request = request;
        if let Some(mut sender) = idle
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                // The server closed the idle connection before it read the request: a new one may take it.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Error::broken(name, error.into_error())),
                },
            }
        }
        let mut sender = self.open(name).await?;
        let response = sender.send_request(request).await.map_err(|error| Error::broken(name, error))?;
        Ok((response, sender))
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, sender: Sender) {
        if !sender.is_closed() {
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        }
    }
}
