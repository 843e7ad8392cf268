//! The endpoints.

use axum::{
    Json, Router,
    extract::{Path, Request, State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use berth_instances::Devices;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    Asker,
    changes::{self, Kind},
};
use crate::{
    events,
    http::{ApiError, Query, query},
};

/// Events that may wait for one listener.
const QUEUE: usize = 64;
/// Listeners have nothing to say.
const MAX_MESSAGE: usize = 4096;

/// An error, as text.
struct Refusal(StatusCode, String);

type Answer<T> = Result<T, Refusal>;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", self.1)).into_response()
    }
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(error.code(), error.to_string())
    }
}

pub fn router(asker: Asker) -> Router {
    Router::new()
        .route("/", get(async || Json(["/1.0"])))
        .route("/1.0", get(about))
        .route("/1.0/config", get(config))
        .route("/1.0/config/{key}", get(value))
        .route("/1.0/devices", get(devices))
        .route("/1.0/events", get(listen))
        .route("/1.0/meta-data", get(meta_data))
        .fallback(async |request: Request| Refusal(StatusCode::NOT_FOUND, format!("no {} here", request.uri().path())))
        .with_state(asker)
}

async fn about(State(asker): State<Asker>) -> Answer<Json<Value>> {
    let kind = asker.instance()?.kind.to_string();
    Ok(Json(json!({"api_version": "1.0", "location": "none", "instance_type": kind})))
}

async fn config(State(asker): State<Asker>) -> Answer<Json<Vec<String>>> {
    let instance = asker.instance()?;
    let keys = changes::readable(&instance.expanded_config);
    Ok(Json(keys.map(|(key, _)| format!("/1.0/config/{}", query::encode_path(key))).collect()))
}

async fn value(State(asker): State<Asker>, Path(key): Path<String>) -> Answer<String> {
    if !changes::is_readable(&key) {
        return Err(Refusal(StatusCode::FORBIDDEN, "not authorized".to_owned()));
    }
    let value = asker.instance()?.expanded_config.get(&key).cloned();
    value.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "not found".to_owned()))
}

async fn devices(State(asker): State<Asker>) -> Answer<Json<Devices>> {
    Ok(Json(changes::devices(&*asker.instance()?)))
}

async fn meta_data(State(asker): State<Asker>) -> Answer<String> {
    let text = asker.instance()?.meta_data();
    let text = text.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "not found".to_owned()))?;
    Ok(format!("#cloud-config\n{text}"))
}

async fn listen(
    State(asker): State<Asker>,
    query: Result<Query, ApiError>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Answer<Response> {
    let upgrade = upgrade.map_err(|e| Refusal(StatusCode::BAD_REQUEST, format!("a websocket is wanted here: {e}")))?;
    let kinds = match query?.get("type") {
        None => vec![Kind::Config, Kind::Device],
        Some(list) => list
            .split(',')
            .map(str::parse)
            .collect::<Result<_, String>>()
            .map_err(|message| Refusal(StatusCode::BAD_REQUEST, message))?,
    };
    // Watched before the listener hears of it, so that nothing is missed from then on.
    let view = asker.app.instances.watch(&asker.project, &asker.name).map_err(ApiError::from)?;
    let (sender, queue) = mpsc::channel(QUEUE);
    tokio::spawn(changes::tell(view, kinds, sender));
    Ok(upgrade.max_message_size(MAX_MESSAGE).on_upgrade(async move |socket| events::serve(socket, queue).await))
}
