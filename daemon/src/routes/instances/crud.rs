//! Instances themselves: show, change, delete.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use berth_api::instances::InstancePut;
use http::HeaderMap;
use serde_json::Map;

use super::{
    Prefix,
    list::{Depth, live_state},
    moves, operation, snapshots,
};
use crate::{
    app::Shared,
    convert::{instances as convert, patched},
    http::{ApiError, ApiResult, Caller, Json, Query, body, envelope, etag},
};

pub fn routes(base: &str) -> Router<Shared> {
    Router::new()
        .route(&format!("{base}/{{name}}"), get(show).put(replace).patch(patch).post(moves::relocate).delete(delete))
}

async fn show(State(app): State<Shared>, prefix: Prefix, query: Query, Path(name): Path<String>) -> ApiResult {
    let instance = prefix.find(&app, query.project(), &name)?;
    let tag = convert::etag(&instance);
    if query.recursion() == 0 {
        return Ok(envelope::tagged(convert::instance(&instance), &tag));
    }
    let state = live_state(&app, &instance, Depth::Whole).await;
    let backups = app.instances.backups(&instance.project, &name).await?;
    Ok(envelope::tagged(convert::full(&instance, state, &backups), &tag))
}

async fn replace(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<InstancePut>,
) -> ApiResult {
    let project = query.project().to_owned();
    let instance = prefix.find(&app, &project, &name)?;
    etag::check(&headers, &convert::etag(&instance))?;
    if !put.restore.is_empty() {
        return snapshots::restore(app, &instance, put.restore, put.stateful, &caller).await;
    }
    let revision = headers.contains_key(http::header::IF_MATCH).then_some(instance.revision);
    let operations = app.operations.clone();
    let spec = operation("Updating instance", &project, &name, &caller);
    operations.accept(spec, |_| async move {
        app.instances.update(&project, &name, convert::update(put), revision).await?;
        Ok(Map::new())
    })
}

async fn patch(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    Path(name): Path<String>,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    let instance = prefix.find(&app, query.project(), &name)?;
    etag::check(&headers, &convert::etag(&instance))?;
    let put: InstancePut = patched(&convert::put(&instance), &bytes)?;
    if !put.restore.is_empty() && put.stateful {
        return Err(ApiError::invalid("snapshots hold no run state; restore the snapshot without \"stateful\""));
    }
    app.instances.update(query.project(), &name, convert::update(put), Some(instance.revision)).await?;
    Ok(envelope::empty())
}

async fn delete(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
) -> ApiResult {
    let project = query.project().to_owned();
    prefix.find(&app, &project, &name)?;
    let operations = app.operations.clone();
    let spec = operation("Deleting instance", &project, &name, &caller);
    operations.accept(spec, |_| async move {
        app.instances.delete(&project, &name).await?;
        Ok(Map::new())
    })
}
