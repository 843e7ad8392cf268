//! Instances themselves: show, change, delete.

use axum::{Router, routing::get};
use berth_api::instances::InstancePut;
use http::HeaderMap;

use super::{
    Target,
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

async fn show(Target { app, instance, .. }: Target, query: Query) -> ApiResult {
    let tag = convert::etag(&instance);
    if query.recursion() == 0 {
        return Ok(envelope::tagged(convert::instance(&instance), &tag));
    }
    let state = live_state(&app, &instance, Depth::Whole).await;
    let backups = app.instances.backups(&instance.project, &instance.name).await?;
    Ok(envelope::tagged(convert::full(&instance, state, &backups), &tag))
}

async fn replace(
    Target { app, instance, .. }: Target,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<InstancePut>,
) -> ApiResult {
    etag::check(&headers, &convert::etag(&instance))?;
    if !put.restore.is_empty() {
        return snapshots::restore(app, &instance, put.restore, put.stateful, &caller).await;
    }
    let revision = headers.contains_key(http::header::IF_MATCH).then_some(instance.revision);
    let spec = operation("Updating instance", &instance, &caller);
    app.clone().operations.accept(spec, |_| async move {
        app.instances.update(&instance.project, &instance.name, convert::update(put), revision).await?;
        Ok(())
    })
}

async fn patch(Target { app, instance, .. }: Target, headers: HeaderMap, request: axum::extract::Request) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    etag::check(&headers, &convert::etag(&instance))?;
    let put: InstancePut = patched(&convert::put(&instance), &bytes)?;
    if !put.restore.is_empty() && put.stateful {
        return Err(ApiError::invalid("snapshots hold no run state; restore the snapshot without \"stateful\""));
    }
    app.instances.update(&instance.project, &instance.name, convert::update(put), Some(instance.revision)).await?;
    Ok(envelope::empty())
}

async fn delete(Target { app, instance, .. }: Target, caller: Caller) -> ApiResult {
    let spec = operation("Deleting instance", &instance, &caller);
    app.clone().operations.accept(spec, |_| async move {
        app.instances.delete(&instance.project, &instance.name).await?;
        Ok(())
    })
}
