//! What stands between a connection and the router: readiness, request ids and the general rules.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, response::Response};
use http::{HeaderValue, Method, Request, Uri};
use tokio::sync::watch;
use tower::ServiceExt;
use tracing::Instrument;

use crate::http::{ApiError, Peer, envelope};

/// How long a request waits for a daemon that still starts.
const START: Duration = Duration::from_secs(15);

static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// Opens the gate once the daemon is ready.
pub struct Door(watch::Sender<Option<Router>>);

impl Door {
    /// Lets requests through to this router.
    pub fn open(&self, router: Router) {
        self.0.send_replace(Some(router));
    }
}

/// Serves requests; clones share it.
#[derive(Clone)]
pub struct Gate(watch::Receiver<Option<Router>>);

impl Gate {
    /// Asked by `berthd waitready`: answers when the daemon is ready, however long that takes.
    pub const READY: &str = "/internal/ready";

    /// A closed gate and its door.
    pub fn new() -> (Door, Self) {
        let (door, gate) = watch::channel(None);
        (Door(door), Self(gate))
    }

    /// Serves one request.
    pub async fn serve(&self, mut request: Request<Body>) -> Response {
        let id = REQUESTS.fetch_add(1, Ordering::Relaxed);
        let span = tracing::debug_span!("request", id, method = %request.method(), path = request.uri().path());
        trim_slash(request.uri_mut());
        let began = Instant::now();
        async {
            let response = self.answer(request).await;
            tracing::debug!(code = response.status().as_u16(), micros = began.elapsed().as_micros() as u64, "answered");
            response
        }
        .instrument(span)
        .await
    }

    async fn answer(&self, request: Request<Body>) -> Response {
        let mut gate = self.0.clone();
        let is_local = matches!(request.extensions().get(), Some(Peer::Local));
        if is_local && request.uri().path() == Self::READY && request.method() == Method::GET {
            return match gate.wait_for(Option::is_some).await {
                Ok(_) => envelope::empty(),
                Err(_) => axum::response::IntoResponse::into_response(ApiError::unavailable("Berth is shutting down")),
            };
        }
        let router = match tokio::time::timeout(START, gate.wait_for(Option::is_some)).await {
            Ok(Ok(router)) => router.clone(),
            _ => None,
        };
        let Some(router) = router else {
            let error =
                ApiError::unavailable("Berth daemon setup in progress; try again when \"berthd waitready\" returns");
            return axum::response::IntoResponse::into_response(error);
        };
        let mut response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
        response.headers_mut().insert("Server", HeaderValue::from_static("berthd"));
        response
    }
}

/// `/1.0/instances/` means `/1.0/instances`.
fn trim_slash(uri: &mut Uri) {
    let path = uri.path();
    if path.len() < 2 || !path.ends_with('/') {
        return;
    }
    let trimmed = path.trim_end_matches('/');
    let trimmed = if trimmed.is_empty() { "/" } else { trimmed };
    let text = match uri.query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    if let Ok(new) = text.parse() {
        *uri = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use http::StatusCode;

    fn request(path: &str) -> Request<Body> {
        Request::get(path).extension(Peer::Local).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn requests_wait_until_the_daemon_is_ready() {
        let (door, gate) = Gate::new();
        let (early, ready, ()) = tokio::join!(gate.serve(request("/x/")), gate.serve(request(Gate::READY)), async {
            door.open(Router::new().route("/x", get(async || "x")))
        });
        assert_eq!(early.status(), StatusCode::OK);
        assert_eq!(ready.status(), StatusCode::OK);
        assert_eq!(gate.serve(request("/y")).await.status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_daemon_that_gives_up_tells_so() {
        let (door, gate) = Gate::new();
        drop(door);
        assert_eq!(gate.serve(request(Gate::READY)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(gate.serve(request("/1.0")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn slashes_at_the_end_do_not_count() {
        for (given, wanted) in [("/a/", "/a"), ("/a/?b=c/", "/a?b=c/"), ("/", "/"), ("//", "/"), ("/a", "/a")] {
            let mut uri: Uri = given.parse().unwrap();
            trim_slash(&mut uri);
            assert_eq!(uri.to_string(), wanted);
        }
    }
}
