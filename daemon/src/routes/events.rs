//! `/1.0/events`.

use axum::{
    Router,
    extract::{State, WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection},
    response::Response,
    routing::get,
};

use crate::{
    access::Access,
    app::Shared,
    events::{Interest, Kind, serve},
    http::{ApiError, ApiResult, Query},
};

/// Clients have nothing to say on this websocket.
const MAX_MESSAGE: usize = 4096;

pub fn routes() -> Router<Shared> {
    Router::new().route("/1.0/events", get(events))
}

async fn events(
    State(app): State<Shared>,
    access: Access,
    query: Query,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let upgrade = upgrade.map_err(|error| ApiError::invalid(format!("A websocket is wanted here: {error}")))?;
    let project = query.list_project()?.map(str::to_owned);
    let mut kinds = match query.get("type") {
        None => Kind::ALL.to_vec(),
        Some(list) => list.split(',').map(str::parse).collect::<Result<_, String>>().map_err(ApiError::invalid)?,
    };
    let only_project = !access.is_full();
    if only_project {
        // The log tells of all projects.
        kinds.retain(|kind| *kind != Kind::Logging);
    }
    // Subscribed before the client hears of it, so that nothing it causes from then on is missed.
    let queue = app.events.subscribe(Interest { kinds, project, only_project });
    Ok(upgrade.max_message_size(MAX_MESSAGE).on_upgrade(async move |socket| serve(socket, queue).await))
}
