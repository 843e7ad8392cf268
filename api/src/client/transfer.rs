//! Bodies that are not JSON: files up and down.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, Method, StatusCode as HttpStatus, header};
use http_body_util::{BodyExt as _, Empty, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use super::{
    Answer, Body, Client, Endpoint, MAX_JSON,
    connection::Sender,
    error::{Error, Result},
    parse_envelope,
};

/// Bytes read from a file for one frame.
const CHUNK: usize = 256 << 10;

/// A body that is sent as it is read.
pub struct Upload {
    body: Body,
    length: Option<u64>,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Upload {
    /// A body of this stream; `sent` is told the bytes so far.
    #[must_use]
    pub fn stream(
        stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        length: Option<u64>,
        sent: impl Fn(u64) + Send + 'static,
    ) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let frames = stream.map(move |chunk| {
            chunk.map(|data| {
                let size = data.len() as u64;
                sent(count.fetch_add(size, Ordering::Relaxed) + size);
                Frame::data(data)
            })
        });
        Self { body: StreamBody::new(frames).boxed_unsync(), length }
    }

    /// A body of this reader.
    #[must_use]
    pub fn reader(
        reader: impl AsyncRead + Send + 'static,
        length: Option<u64>,
        sent: impl Fn(u64) + Send + 'static,
    ) -> Self {
        Self::stream(ReaderStream::with_capacity(reader, CHUNK), length, sent)
    }

    /// A body of these bytes.
    #[must_use]
    pub fn bytes(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        let length = data.len() as u64;
        Self::stream(futures::stream::iter([Ok(data)]), Some(length), |_| {})
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct RawResponse {
    /// Headers.
    pub headers: HeaderMap,
    body: Incoming,
    client: Client,
    sender: Sender,
    name: String,
}

impl Client {
    /// Sends a body with headers and reads an envelope.
    ///
    /// # Errors
    /// If the upload cannot be read or sent, or the server refuses it.
    pub async fn upload(
        &self,
        method: Method,
        endpoint: &Endpoint,
        mut headers: HeaderMap,
        upload: Upload,
    ) -> Result<Answer> {
        headers.entry(header::CONTENT_TYPE).or_insert(header::HeaderValue::from_static("application/octet-stream"));
        if let Some(length) = upload.length {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        self.request_body(method, endpoint, headers, upload.body).await
    }

    /// Asks for a body that is not JSON.
    ///
    /// # Errors
    /// If the request cannot be sent or the server refuses it.
    pub async fn download(&self, endpoint: &Endpoint) -> Result<RawResponse> {
        let endpoint = self.in_project(endpoint);
        let name = format!("GET {endpoint}");
        let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = self.build(Method::GET, &endpoint, HeaderMap::new(), empty)?;
        let (response, sender) = self.shared.send(request, &name).await?;
        let (parts, body) = response.into_parts();
        if parts.status != HttpStatus::OK {
            let bytes = Limited::new(body, MAX_JSON).collect().await.map_err(|error| Error::broken(&name, error))?;
            parse_envelope(parts.status, &bytes.to_bytes(), &name)?;
            return Err(Error::protocol(name, format!("unexpected status {}", parts.status)));
        }
        Ok(RawResponse { headers: parts.headers, body, client: self.clone(), sender, name })
    }
}

impl RawResponse {
    /// A header as text; empty if it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// `Content-Length`.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.header("content-length").parse().ok()
    }

    /// The next piece of the body.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Error::broken(&self.name, error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Writes the body to `output`; `received` is told the bytes so far. Returns their number.
    ///
    /// # Errors
    /// If the connection breaks or `output` fails.
    pub async fn copy_to(
        mut self,
        output: &mut (impl AsyncWrite + Unpin),
        mut received: impl FnMut(u64),
    ) -> Result<u64> {
        let local = |source| Error::Local { what: "cannot write the received data".into(), source };
        let mut count = 0;
        while let Some(data) = self.chunk().await? {
            output.write_all(&data).await.map_err(local)?;
            count += data.len() as u64;
            received(count);
        }
        output.flush().await.map_err(local)?;
        self.done();
        Ok(count)
    }

    /// The whole body, at most `limit` bytes.
    ///
    /// # Errors
    /// If the connection breaks or the body is larger.
    pub async fn bytes(mut self, limit: usize) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(data) = self.chunk().await? {
            if all.len() + data.len() > limit {
                return Err(Error::protocol(&self.name, format!("the answer is larger than {limit} bytes")));
            }
            all.extend_from_slice(&data);
        }
        self.done();
        Ok(all)
    }

    /// The metadata of a body that is an envelope after all: a directory's entries.
    ///
    /// # Errors
    /// If the connection breaks or the body is something else.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T> {
        let name = self.name.clone();
        let bytes = self.bytes(MAX_JSON).await?;
        let response = parse_envelope(HttpStatus::OK, &bytes, &name)?;
        serde_json::from_value(response.metadata).map_err(|error| Error::protocol(name, error))
    }

    fn done(self) {
        self.client.shared.keep(self.sender);
    }
}
