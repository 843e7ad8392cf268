//! `/1.0/storage-pools`.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use berth_api::{
    Time,
    resources::{ResourcesStoragePool, ResourcesUsage},
    storage::{StoragePoolPut, StoragePoolsPost, StorageVolume},
};
use berth_instances::{Instance, Kind, Warm};
use berth_storage::Pool;
use http::HeaderMap;
use serde_json::json;

use crate::{
    app::{App, Shared},
    convert::{patched, storage as convert, used_by::Users},
    http::{
        ApiError, ApiResult, Caller, Json, Query, body, envelope, etag,
        query::{DEFAULT_PROJECT, encode_path, render_list, url},
    },
};

const BASE: &str = "/1.0/storage-pools";

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(BASE, get(list).post(create))
        .route("/1.0/storage-pools/{pool}", get(show).put(replace).patch(patch).delete(delete))
        .route("/1.0/storage-pools/{pool}/resources", get(resources))
        .route("/1.0/storage-pools/{pool}/volumes", get(volumes).post(no_volumes))
        .route("/1.0/storage-pools/{pool}/volumes/{kind}", get(volumes_of_kind).post(no_volumes))
        .route("/1.0/storage-pools/{pool}/volumes/{kind}/{volume}", get(volume))
        .route("/1.0/storage-pools/{pool}/volumes/{kind}/{volume}/state", get(volume_state))
}

/// Pools belong to no project.
fn location(name: &str) -> String {
    url(BASE, name, DEFAULT_PROJECT)
}

async fn list(State(app): State<Shared>, query: Query) -> ApiResult {
    let users = Users::read(&app).await?;
    let pools = app.pools.list().await?;
    let items = pools.iter().map(|pool| (location(&pool.name), json!(convert::pool(pool, users.of_pool(&pool.name)))));
    Ok(envelope::sync(render_list(&query, items.collect())?))
}

async fn create(State(app): State<Shared>, caller: Caller, Json(post): Json<StoragePoolsPost>) -> ApiResult {
    app.pools.create(&post.name, &post.driver, &post.description, post.config).await?;
    let location = location(&post.name);
    app.happened("storage-pool-created", &location, None, &caller);
    Ok(envelope::created(&location))
}

async fn show(State(app): State<Shared>, Path(name): Path<String>) -> ApiResult {
    let pool = app.pools.get(&name).await?;
    let used_by = Users::read(&app).await?.of_pool(&name);
    Ok(envelope::tagged(convert::pool(&pool, used_by), &etag::of(&convert::put(&pool))))
}

async fn write(app: &App, pool: &Pool, put: StoragePoolPut, caller: &Caller) -> ApiResult {
    app.pools.update(&pool.name, &put.description, put.config, Some(pool.mod_rev)).await?;
    app.happened("storage-pool-updated", &location(&pool.name), None, caller);
    Ok(envelope::empty())
}

async fn replace(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<StoragePoolPut>,
) -> ApiResult {
    let pool = app.pools.get(&name).await?;
    etag::check(&headers, &etag::of(&convert::put(&pool)))?;
    write(&app, &pool, put, &caller).await
}

async fn patch(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    let pool = app.pools.get(&name).await?;
    let current = convert::put(&pool);
    etag::check(&headers, &etag::of(&current))?;
    write(&app, &pool, patched(&current, &bytes)?, &caller).await
}

async fn delete(State(app): State<Shared>, Path(name): Path<String>, caller: Caller) -> ApiResult {
    app.pools.get(&name).await?;
    if let Some(user) = Users::read(&app).await?.of_pool(&name).first() {
        return Err(ApiError::invalid(format!(
            "The storage pool \"{name}\" is currently in use by {user}; remove that first"
        )));
    }
    // Nobody made them for their own sake, and nobody could find them in the way.
    app.instances.cool_down(Warm::Pool(&name)).await?;
    app.pools.delete_pool(&name).await?;
    app.happened("storage-pool-deleted", &location(&name), None, &caller);
    Ok(envelope::empty())
}

async fn resources(State(app): State<Shared>, Path(name): Path<String>) -> ApiResult {
    let found = app.pools.resources(&name).await?;
    Ok(envelope::sync(ResourcesStoragePool {
        space: ResourcesUsage { used: found.used, total: found.total },
        inodes: ResourcesUsage { used: found.inodes_used, total: found.inodes_total },
    }))
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Container => "container",
        Kind::VirtualMachine => "virtual-machine",
    }
}

fn volume_url(pool: &str, instance: &Instance) -> String {
    url(
        &format!("{BASE}/{}/volumes/{}", encode_path(pool), kind_name(instance.kind)),
        &instance.name,
        &instance.project,
    )
}

/// The root volume of an instance; there are no others in this version.
fn root_volume(instance: &Instance) -> StorageVolume {
    let content = match instance.kind {
        Kind::Container => "filesystem",
        Kind::VirtualMachine => "block",
    };
    StorageVolume {
        name: instance.name.clone(),
        kind: kind_name(instance.kind).to_owned(),
        used_by: vec![url("/1.0/instances", &instance.name, &instance.project)],
        location: "none".to_owned(),
        content_type: content.to_owned(),
        project: instance.project.clone(),
        created_at: Time(instance.created_at),
        ..StorageVolume::default()
    }
}

async fn list_volumes(app: &App, query: &Query, pool: &str, kind: Option<&str>) -> ApiResult {
    app.pools.get(pool).await?;
    let instances = app.instances.list(query.list_project()?);
    let wanted = instances.iter().filter(|i| i.pool == pool && kind.is_none_or(|kind| kind == kind_name(i.kind)));
    let items = wanted.map(|i| (volume_url(pool, i), json!(root_volume(i)))).collect();
    Ok(envelope::sync(render_list(query, items)?))
}

async fn volumes(State(app): State<Shared>, query: Query, Path(pool): Path<String>) -> ApiResult {
    list_volumes(&app, &query, &pool, None).await
}

async fn volumes_of_kind(
    State(app): State<Shared>,
    query: Query,
    Path((pool, kind)): Path<(String, String)>,
) -> ApiResult {
    if !matches!(kind.as_str(), "container" | "virtual-machine" | "image" | "custom") {
        return Err(ApiError::invalid(format!("Invalid storage volume type \"{kind}\"")));
    }
    list_volumes(&app, &query, &pool, Some(&kind)).await
}

fn find(app: &App, query: &Query, pool: &str, kind: &str, volume: &str) -> ApiResult<std::sync::Arc<Instance>> {
    let instance = app.instances.get(query.project(), volume).ok();
    instance.filter(|i| i.pool == pool && kind_name(i.kind) == kind).ok_or_else(|| {
        ApiError::not_found(format!("Storage volume \"{volume}\" of type {kind} not found in pool \"{pool}\""))
    })
}

async fn volume(
    State(app): State<Shared>,
    query: Query,
    Path((pool, kind, volume)): Path<(String, String, String)>,
) -> ApiResult {
    let volume = root_volume(&*find(&app, &query, &pool, &kind, &volume)?);
    Ok(envelope::tagged(&volume, &etag::of(&(&volume.description, &volume.config))))
}

async fn volume_state(
    State(app): State<Shared>,
    query: Query,
    Path((pool, kind, volume)): Path<(String, String, String)>,
) -> ApiResult {
    let instance = find(&app, &query, &pool, &kind, &volume)?;
    let report = app.instances.state(&instance.project, &instance.name).await?;
    let usage = report.root_usage.map(|used| json!({"used": used, "total": 0}));
    Ok(envelope::sync(json!({"usage": usage})))
}

async fn no_volumes(Path(parts): Path<Vec<(String, String)>>) -> ApiError {
    let pool = parts.first().map_or("", |(_, pool)| pool.as_str());
    ApiError::invalid(format!("Storage pool \"{pool}\": custom volumes are not supported yet by this version"))
}
