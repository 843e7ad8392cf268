//! `/1.0/warnings`.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use berth_api::{
    Time,
    warnings::{Warning as WireWarning, WarningPut},
};
use http::HeaderMap;
use serde_json::json;

use crate::{
    app::{App, Shared},
    convert::patched,
    http::{ApiError, ApiResult, Caller, Json, Query, body, envelope, etag, query::render_list},
    warnings::{Status, Warning},
};

const BASE: &str = "/1.0/warnings";

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(BASE, get(list))
        .route("/1.0/warnings/{uuid}", get(show).put(replace).patch(patch).delete(delete))
}

fn status(status: Status) -> &'static str {
    match status {
        Status::New => "new",
        Status::Acknowledged => "acknowledged",
        Status::Resolved => "resolved",
    }
}

fn wire(uuid: &str, warning: Warning) -> WireWarning {
    WireWarning {
        uuid: uuid.to_owned(),
        location: "none".to_owned(),
        project: warning.project,
        kind: warning.kind.text().to_owned(),
        count: i64::try_from(warning.count).unwrap_or(i64::MAX),
        first_seen_at: Time(warning.first_seen_at),
        last_seen_at: Time(warning.last_seen_at),
        last_message: warning.message,
        severity: warning.kind.severity().to_owned(),
        status: status(warning.status).to_owned(),
        entity_url: warning.entity_url,
    }
}

fn fields(warning: &Warning) -> WarningPut {
    WarningPut { status: status(warning.status).to_owned() }
}

fn location(uuid: &str) -> String {
    format!("{BASE}/{uuid}")
}

fn missing(uuid: &str) -> ApiError {
    ApiError::not_found(format!("Warning \"{uuid}\" not found"))
}

async fn find(app: &App, uuid: &str) -> ApiResult<Warning> {
    app.warnings.get(uuid).await?.ok_or_else(|| missing(uuid))
}

async fn list(State(app): State<Shared>, query: Query) -> ApiResult {
    let mut warnings = app.warnings.list().await?;
    if let Some(project) = query.get("project") {
        warnings.retain(|(_, warning)| warning.project == project);
    }
    let items = warnings.into_iter().map(|(uuid, warning)| (location(&uuid), json!(wire(&uuid, warning))));
    Ok(envelope::sync(render_list(&query, items.collect())?))
}

async fn show(State(app): State<Shared>, Path(uuid): Path<String>) -> ApiResult {
    let warning = find(&app, &uuid).await?;
    let tag = etag::of(&fields(&warning));
    Ok(envelope::tagged(wire(&uuid, warning), &tag))
}

async fn write(app: &App, uuid: &str, put: WarningPut, caller: &Caller) -> ApiResult {
    let (status, action) = match put.status.as_str() {
        "new" => (Status::New, "warning-reset"),
        "acknowledged" => (Status::Acknowledged, "warning-acknowledged"),
        other => {
            return Err(ApiError::invalid(format!(
                "The status \"{other}\" cannot be set: a warning can be made \"new\" or \"acknowledged\""
            )));
        }
    };
    if !app.warnings.set_status(uuid, status).await? {
        return Err(missing(uuid));
    }
    app.happened(action, &location(uuid), None, caller);
    Ok(envelope::empty())
}

async fn replace(
    State(app): State<Shared>,
    Path(uuid): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<WarningPut>,
) -> ApiResult {
    etag::check(&headers, &etag::of(&fields(&find(&app, &uuid).await?)))?;
    write(&app, &uuid, put, &caller).await
}

async fn patch(
    State(app): State<Shared>,
    Path(uuid): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    let current = fields(&find(&app, &uuid).await?);
    etag::check(&headers, &etag::of(&current))?;
    write(&app, &uuid, patched(&current, &bytes)?, &caller).await
}

async fn delete(State(app): State<Shared>, Path(uuid): Path<String>, caller: Caller) -> ApiResult {
    if !app.warnings.delete(&uuid).await? {
        return Err(missing(&uuid));
    }
    app.happened("warning-deleted", &location(&uuid), None, &caller);
    Ok(envelope::empty())
}
