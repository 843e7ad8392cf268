//! Snapshots of instances.

use std::sync::Arc;

use axum::{Router, extract::Path, routing::get};
use berth_api::instances::{InstanceSnapshotPost, InstanceSnapshotPut, InstanceSnapshotsPost};
use berth_instances::{Instance, NewSnapshot, Snapshot};
use http::HeaderMap;
use serde_json::json;

use super::{Target, operation};
use crate::{
    app::Shared,
    convert::{images::progress, instances as convert, patched},
    http::{
        ApiError, ApiResult, Caller, Json, Query, body, envelope, etag,
        query::{encode_path, render_list, url},
    },
    operations::Spec,
};

/// Key of an operation's metadata under which the progress of a snapshot is shown.
pub const PROGRESS: &str = "create_snapshot_progress";

pub fn routes(base: &str) -> Router<Shared> {
    Router::new().route(&format!("{base}/{{name}}/snapshots"), get(list).post(create)).route(
        &format!("{base}/{{name}}/snapshots/{{snapshot}}"),
        get(show).put(replace).patch(patch).post(rename).delete(delete),
    )
}

/// URL of a snapshot.
pub fn location(base: &str, instance: &Instance, snapshot: &str) -> String {
    url(&format!("{base}/{}/snapshots", encode_path(&instance.name)), snapshot, &instance.project)
}

fn find<'a>(instance: &'a Instance, name: &str) -> ApiResult<&'a Snapshot> {
    instance.snapshot(name).ok_or_else(|| {
        ApiError::not_found(format!(
            "Instance \"{}\" has no snapshot \"{}\"; its info shows those there are",
            instance.name,
            name.escape_debug()
        ))
    })
}

/// The description of an operation on a snapshot.
fn operation_on(description: &str, instance: &Instance, snapshot: &str, caller: &Caller) -> Spec {
    let spec = operation(description, instance, caller);
    spec.resource("instances_snapshots", location("/1.0/instances", instance, snapshot))
}

/// What of a snapshot may be changed.
fn fields(snapshot: &Snapshot) -> InstanceSnapshotPut {
    InstanceSnapshotPut { expires_at: convert::snapshot(snapshot).expires_at }
}

async fn list(Target { prefix, instance, .. }: Target, query: Query) -> ApiResult {
    let items = instance
        .snapshots
        .iter()
        .map(|snapshot| (location(prefix.base(), &instance, &snapshot.name), json!(convert::snapshot(snapshot))));
    Ok(envelope::sync(render_list(&query, items.collect())?))
}

async fn create(
    Target { app, instance, .. }: Target,
    caller: Caller,
    Json(post): Json<InstanceSnapshotsPost>,
) -> ApiResult {
    let name = &instance.name;
    if instance.snapshot(&post.name).is_some() {
        return Err(ApiError::conflict(format!("Snapshot \"{name}/{}\" already exists", post.name)));
    }
    let new = NewSnapshot {
        name: (!post.name.is_empty()).then_some(post.name),
        expires_at: post.expires_at.map(convert::date),
        stateful: post.stateful,
    };
    let mut spec = operation("Snapshotting instance", &instance, &caller).cancellable();
    if let Some(snapshot) = &new.name {
        spec = spec.resource("instances_snapshots", location("/1.0/instances", &instance, snapshot));
    }
    app.clone().operations.accept(spec, |context| async move {
        let shown: Arc<berth_images::Progress> = Arc::new(progress(context, PROGRESS));
        app.instances.create_snapshot(&instance.project, &instance.name, new, &shown).await?;
        Ok(())
    })
}

async fn show(Target { instance, .. }: Target, Path((_, snapshot)): Path<(String, String)>) -> ApiResult {
    let snapshot = find(&instance, &snapshot)?;
    Ok(envelope::tagged(convert::snapshot(snapshot), &etag::of(&fields(snapshot))))
}

async fn write(
    app: Shared,
    instance: &Instance,
    snapshot: String,
    put: InstanceSnapshotPut,
    caller: Caller,
) -> ApiResult {
    let spec = operation_on("Updating snapshot", instance, &snapshot, &caller);
    let (project, name) = (instance.project.clone(), instance.name.clone());
    app.clone().operations.accept(spec, |_| async move {
        app.instances.expire_snapshot(&project, &name, &snapshot, convert::date(put.expires_at)).await?;
        Ok(())
    })
}

async fn replace(
    Target { app, instance, .. }: Target,
    Path((_, snapshot)): Path<(String, String)>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<InstanceSnapshotPut>,
) -> ApiResult {
    etag::check(&headers, &etag::of(&fields(find(&instance, &snapshot)?)))?;
    write(app, &instance, snapshot, put, caller).await
}

async fn patch(
    Target { app, instance, .. }: Target,
    Path((_, snapshot)): Path<(String, String)>,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    // As it is now: the body may have taken its time.
    let instance = app.instances.get(&instance.project, &instance.name)?;
    let current = fields(find(&instance, &snapshot)?);
    etag::check(&headers, &etag::of(&current))?;
    write(app, &instance, snapshot, patched(&current, &bytes)?, caller).await
}

async fn rename(
    Target { app, instance, .. }: Target,
    Path((_, snapshot)): Path<(String, String)>,
    caller: Caller,
    Json(post): Json<InstanceSnapshotPost>,
) -> ApiResult {
    find(&instance, &snapshot)?;
    if post.migration {
        return Err(ApiError::invalid("Migrating a snapshot is not supported yet; copy it to a new instance instead"));
    }
    if post.name.is_empty() {
        return Err(ApiError::invalid("No name given: \"name\" is the new name of the snapshot"));
    }
    if instance.snapshot(&post.name).is_some() {
        return Err(ApiError::conflict(format!("Name \"{}\" already in use", post.name)));
    }
    let spec = operation_on("Renaming snapshot", &instance, &snapshot, &caller);
    app.clone().operations.accept(spec, |_| async move {
        app.instances.rename_snapshot(&instance.project, &instance.name, &snapshot, &post.name).await?;
        Ok(())
    })
}

async fn delete(
    Target { app, instance, .. }: Target,
    Path((_, snapshot)): Path<(String, String)>,
    caller: Caller,
) -> ApiResult {
    find(&instance, &snapshot)?;
    let spec = operation_on("Deleting snapshot", &instance, &snapshot, &caller);
    app.clone().operations.accept(spec, |_| async move {
        app.instances.delete_snapshot(&instance.project, &instance.name, &snapshot).await?;
        Ok(())
    })
}

/// `PUT` on an instance that names a snapshot: the instance becomes what it was then.
pub async fn restore(app: Shared, instance: &Instance, snapshot: String, stateful: bool, caller: &Caller) -> ApiResult {
    // Clients may name the snapshot with its instance.
    let own = snapshot.strip_prefix(&format!("{}/", instance.name)).unwrap_or(&snapshot).to_owned();
    find(instance, &own)?;
    if stateful {
        return Err(ApiError::invalid(format!("Snapshot \"{own}\" holds no run state; restore it without")));
    }
    let spec = operation("Restoring snapshot", instance, caller)
        .resource("instances_snapshots", location("/1.0/instances", instance, &own))
        .cancellable();
    let (project, name) = (instance.project.clone(), instance.name.clone());
    app.clone().operations.accept(spec, |context| async move {
        let shown: Arc<berth_images::Progress> = Arc::new(progress(context, "restore_progress"));
        app.instances.restore(&project, &name, &own, &shown).await?;
        Ok(())
    })
}
