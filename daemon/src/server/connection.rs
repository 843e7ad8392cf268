//! One connection, whatever it came over.

use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{Gate, leftover};
use crate::http::{Caller, Peer};

/// Longest head of a request that is read.
const MAX_HEAD: usize = 64 * 1024;

/// Serves requests until the client or `stop` ends the connection; then the current one is answered.
pub async fn serve_connection<S>(
    stream: S,
    header_timeout: Duration,
    gate: Gate,
    caller: Caller,
    peer: Peer,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        request.extensions_mut().insert(peer.clone());
        let gate = gate.clone();
        async move { Ok::<_, std::convert::Infallible>(leftover::answer(request, |request| gate.serve(request)).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // A client that goes away in the middle is its own business.
        tracing::trace!(%error, "connection ended");
    }
}
