//! `/1.0/operations`.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Router,
    extract::{Path, State, WebSocketUpgrade},
    response::Response,
    routing::get,
};
use serde_json::Value;

use crate::{
    access::Access,
    app::Shared,
    http::{ApiError, ApiResult, Caller, Query, envelope},
    operations::{Class, Operation},
};

/// Largest message a client may send on the websocket of an operation.
const MAX_MESSAGE: usize = 1024 * 1024;

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/1.0/operations", get(list))
        .route("/1.0/operations/{id}", get(show).delete(cancel))
        .route("/1.0/operations/{id}/wait", get(wait))
        .route("/1.0/operations/{id}/websocket", get(websocket))
}

fn render(operation: &Operation, access: &Access) -> Value {
    if access.is_full() { operation.render_for_admin() } else { operation.render() }
}

/// By status, as LXD does: a map of lists.
async fn list(State(app): State<Shared>, access: Access, query: Query) -> ApiResult {
    let mut groups: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut operations = app.operations.list(query.list_project()?);
    operations.retain(|operation| access.is_full() || operation.project().is_some());
    for operation in operations {
        let shown = if query.recursion() > 0 {
            render(&operation, &access)
        } else {
            Value::String(format!("/1.0/operations/{}", operation.id()))
        };
        groups.entry(operation.status().name().to_lowercase()).or_default().push(shown);
    }
    Ok(envelope::sync(groups))
}

async fn show(State(app): State<Shared>, access: Access, Path(id): Path<String>) -> ApiResult {
    Ok(envelope::sync(render(&*app.operations.get(&id)?, &access)))
}

async fn cancel(State(app): State<Shared>, Path(id): Path<String>) -> ApiResult {
    app.operations.cancel(&id)?;
    Ok(envelope::empty())
}

/// Answers when the operation has ended or `timeout` seconds have passed.
async fn wait(State(app): State<Shared>, Path(id): Path<String>, query: Query) -> ApiResult {
    let operation = app.operations.get(&id)?;
    let seconds: i64 = match query.get("timeout") {
        None => -1,
        Some(text) => text
            .parse()
            .map_err(|_| ApiError::invalid(format!("Invalid timeout \"{text}\": a number of seconds is wanted")))?,
    };
    match u64::try_from(seconds) {
        // Whether it ended or not: the answer tells.
        Ok(seconds) => drop(tokio::time::timeout(Duration::from_secs(seconds), operation.ended()).await),
        Err(_) => operation.ended().await,
    }
    Ok(envelope::sync(operation.render()))
}

async fn websocket(
    State(app): State<Shared>,
    Path(id): Path<String>,
    query: Query,
    caller: Caller,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    if app.operations.get(&id)?.class() != Class::Websocket {
        return Err(ApiError::invalid("Only websocket operations can be connected"));
    }
    let upgrade = upgrade.map_err(|error| ApiError::invalid(format!("A websocket is wanted here: {error}")))?;
    let secret = query.get("secret").ok_or_else(|| ApiError::invalid("Missing secret"))?;
    let slot = app.operations.socket(&id, secret, &caller)?;
    Ok(upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE).on_upgrade(async move |socket| {
        // If the operation has given up by now the client sees its connection close.
        drop(slot.send(socket));
    }))
}
