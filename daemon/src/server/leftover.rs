//! Bodies of requests that were answered without having been read.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{Request, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::oneshot;

/// Most bytes that are read for nothing; Go's servers, with which LXD's clients were written, read as many.
const MAX: u64 = 256 * 1024;
/// How long a client may take to send them.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has a request answered, and reads what is left of its body before the response goes out.
///
/// Clients may send the body in packets of its own (Python's do, even `null` with a `GET`). hyper would close the
/// connection under those that still send, and they would see a broken pipe instead of the answer.
pub async fn answer<A>(request: Request<Incoming>, serve: impl FnOnce(Request<Body>) -> A) -> Response
where
    A: Future<Output = Response>,
{
    // Such a client sends nothing unless it is asked to.
    let waits = request.headers().contains_key(header::EXPECT);
    let (back, mut left) = oneshot::channel();
    let lent = |body| Body::new(Lent { body: Some(body), back: Some(back) });
    let response = serve(request.map(lent)).await;
    // Whoever has kept the body reads it on.
    if !waits && let Ok(body) = left.try_recv() {
        // One who takes too long loses the connection, as hyper has it.
        let _ = tokio::time::timeout(PATIENCE, drain(body)).await;
    }
    response
}

async fn drain(mut body: Incoming) {
    if body.size_hint().exact().is_some_and(|length| length > MAX) {
        return;
    }
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, |data| data.len() as u64);
        if read > MAX {
            return;
        }
    }
}

/// A body that comes back unless it was read to its end.
struct Lent {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Nobody wants it any more if the connection has ended.
            let _ = back.send(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// The client's end of a connection to a server that reads no body, and word of each request.
    fn connection() -> (DuplexStream, tokio::sync::mpsc::UnboundedReceiver<()>) {
        let (client, server) = tokio::io::duplex(1024 * 1024);
        let (told, asked) = tokio::sync::mpsc::unbounded_channel();
        let service = hyper::service::service_fn(move |request| {
            let told = told.clone();
            async move {
                let response = answer(request, async |_| {
                    told.send(()).unwrap();
                    Response::new(Body::from("answer"))
                });
                Ok::<_, std::convert::Infallible>(response.await)
            }
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service));
        (client, asked)
    }

    async fn until_closed(mut client: DuplexStream) -> String {
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        said
    }

    #[tokio::test]
    async fn a_body_that_comes_late_breaks_no_connection() {
        let (mut client, mut asked) = connection();
        for connection in ["keep-alive", "close"] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\nContent-Length: 4\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            asked.recv().await.unwrap();
            tokio::task::yield_now().await;
            client.write_all(b"null").await.unwrap();
        }
        assert_eq!(until_closed(client).await.matches("answer").count(), 2);
    }

    #[tokio::test]
    async fn what_is_too_long_is_not_read() {
        let (mut client, _asked) = connection();
        let head = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", MAX + 1);
        client.write_all(head.as_bytes()).await.unwrap();
        assert!(until_closed(client).await.contains("answer"));
    }

    #[tokio::test]
    async fn a_client_that_waits_to_be_asked_is_not() {
        let (mut client, _asked) = connection();
        client
            .write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            .await
            .unwrap();
        let said = until_closed(client).await;
        assert!(said.starts_with("HTTP/1.1 200") && !said.contains("100 Continue"), "{said}");
    }
}
