//! The client: requests over the daemon's unix socket.

mod connection;
mod endpoint;
mod error;
mod exec;
pub mod multipart;
mod operation;
mod transfer;
mod websocket;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use http::{Request, StatusCode as HttpStatus};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Response, ResponseType};
pub use connection::Body;
use connection::Sender;
pub use endpoint::{Endpoint, quoted, unquoted};
pub use error::{Error, Result};
pub use exec::{ConsoleSession, ExecIo, ExecSession, Pipes};
pub use operation::Done;
pub use transfer::{RawResponse, Upload};
pub use websocket::{EventStream, Frame, WebSocket, WebSocketReader, WebSocketWriter};

/// Largest JSON answer that is read; a list of some hundred thousand instances with state.
const MAX_JSON: usize = 1 << 30;
/// Largest text of a failed request that is not an envelope.
const MAX_ERROR: usize = 64 << 10;

/// A client of one daemon. Clones share their connection.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    project: Option<String>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    /// The connection that waits for the next request.
    idle: Mutex<Option<Sender>>,
}

/// An answer with its envelope.
#[derive(Debug, Clone)]
pub struct Answer {
    /// `ETag` header.
    pub etag: Option<String>,
    /// `Location` header.
    pub location: Option<String>,
    /// Envelope; never of type error.
    pub response: Response,
}

impl Answer {
    /// The metadata as a type.
    ///
    /// # Errors
    /// If the metadata does not fit the type.
    pub fn into<T: DeserializeOwned>(self, request: &str) -> Result<T> {
        serde_json::from_value(self.response.metadata).map_err(|error| Error::protocol(request, error))
    }
}

impl Client {
    /// A client of the daemon on this socket. It connects with the first request.
    #[must_use]
    pub fn unix(socket: impl AsRef<Path>) -> Self {
        let shared = Shared { socket: socket.as_ref().to_owned(), idle: Mutex::new(None) };
        Self { shared: Arc::new(shared), project: None }
    }

    /// The same client, with requests in a project. `None` is the project `default`.
    #[must_use]
    pub fn with_project(&self, project: Option<&str>) -> Self {
        let project = project.filter(|project| !project.is_empty() && *project != "default").map(str::to_owned);
        Self { shared: Arc::clone(&self.shared), project }
    }

    /// The project that requests go to.
    #[must_use]
    pub fn project(&self) -> &str {
        self.project.as_deref().unwrap_or("default")
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.shared.socket
    }

    /// Reads an object.
    ///
    /// # Errors
    /// If the request fails or the answer is not of the type.
    pub async fn get<T: DeserializeOwned>(&self, endpoint: &Endpoint) -> Result<T> {
        self.request(Method::GET, endpoint, None, None).await?.into(endpoint.as_str())
    }

    /// Reads an object and its version, for a later [`Client::put`].
    ///
    /// # Errors
    /// If the request fails or the answer is not of the type.
    pub async fn get_with_etag<T: DeserializeOwned>(&self, endpoint: &Endpoint) -> Result<(T, Option<String>)> {
        let answer = self.request(Method::GET, endpoint, None, None).await?;
        let etag = answer.etag.clone();
        Ok((answer.into(endpoint.as_str())?, etag))
    }

    /// Sends a request with a JSON body or none; `etag` makes it fail with 412 if the object has changed.
    ///
    /// # Errors
    /// If the request cannot be sent or the server refuses it.
    pub async fn request(
        &self,
        method: Method,
        endpoint: &Endpoint,
        body: Option<Vec<u8>>,
        etag: Option<&str>,
    ) -> Result<Answer> {
        let mut headers = HeaderMap::new();
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        }
        if let Some(etag) = etag {
            let value = header::HeaderValue::from_str(etag).map_err(|error| Error::protocol("ETag", error))?;
            headers.insert(header::IF_MATCH, value);
        }
        let body = Full::new(Bytes::from(body.unwrap_or_default())).map_err(|never| match never {}).boxed_unsync();
        self.request_body(method, endpoint, headers, body).await
    }

    /// Sends a request with a body of any kind and reads an envelope.
    ///
    /// # Errors
    /// If the request cannot be sent or the server refuses it.
    pub async fn request_body(
        &self,
        method: Method,
        endpoint: &Endpoint,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Answer> {
        let endpoint = self.in_project(endpoint);
        let name = format!("{method} {endpoint}");
        let (response, sender) = self.shared.send(self.build(method, &endpoint, headers, body)?, &name).await?;
        let (parts, body) = response.into_parts();
        let bytes = Limited::new(body, MAX_JSON).collect().await.map_err(|error| Error::broken(&name, error))?;
        self.shared.keep(sender);
        let response = parse_envelope(parts.status, &bytes.to_bytes(), &name)?;
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Answer { etag: text(header::ETAG), location: text(header::LOCATION), response })
    }

    /// JSON body of a value.
    ///
    /// # Errors
    /// If the value has no JSON form.
    pub fn json<T: Serialize>(value: &T) -> Result<Option<Vec<u8>>> {
        serde_json::to_vec(value).map(Some).map_err(|error| Error::protocol("the request", error))
    }

    /// The endpoint with this client's project, unless it names one or asks for all.
    pub(crate) fn in_project(&self, endpoint: &Endpoint) -> Endpoint {
        match &self.project {
            Some(project) if !endpoint.has("project") && !endpoint.has("all-projects") => {
                endpoint.clone().query("project", project)
            }
            _ => endpoint.clone(),
        }
    }

    fn build(&self, method: Method, endpoint: &Endpoint, headers: HeaderMap, body: Body) -> Result<Request<Body>> {
        let name = format!("{method} {endpoint}");
        let mut request = Request::builder()
            .method(method)
            .uri(endpoint.as_str())
            .header(header::HOST, "unix.socket")
            .header(header::USER_AGENT, concat!("berth/", env!("CARGO_PKG_VERSION")))
            .body(body)
            .map_err(|error| Error::protocol(name, error))?;
        request.headers_mut().extend(headers);
        Ok(request)
    }
}

/// The envelope of an answer, or the error it holds.
fn parse_envelope(status: HttpStatus, bytes: &[u8], request: &str) -> Result<Response> {
    let envelope = serde_json::from_slice::<Response>(bytes);
    if let Ok(response) = &envelope
        && response.kind == ResponseType::Error
    {
        let code = if response.error_code == 0 { status.as_u16() } else { response.error_code };
        return Err(Error::Api { code, message: response.error.clone() });
    }
    if !status.is_success() {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_ERROR)]).trim().to_owned();
        let message = if text.is_empty() { status.to_string() } else { text };
        return Err(Error::Api { code: status.as_u16(), message });
    }
    envelope.map_err(|error| Error::protocol(request, error))
}

/// The last segment of each URL in a list, as `recursion=0` answers.
#[must_use]
pub fn names(urls: &Value) -> Vec<String> {
    let name = |url: &Value| {
        let path = url.as_str()?.split('?').next()?;
        path.rsplit('/').next().map(unquoted)
    };
    urls.as_array().map(|urls| urls.iter().filter_map(name).collect()).unwrap_or_default()
}
