//! `/1.0/images/aliases`. Names may hold slashes.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use berth_api::images::{ImageAliasesEntry, ImageAliasesEntryPost, ImageAliasesEntryPut, ImageAliasesPost};
use berth_images::AliasInfo;
use berth_instances::projects::Feature;
use http::HeaderMap;
use serde_json::json;

use super::vm_view;
use crate::{
    access::Access,
    app::{App, Shared},
    convert::{images as convert, patched},
    http::{
        ApiError, ApiResult, Caller, Json, Query, body, envelope, etag,
        query::{render_list, url},
    },
};

const BASE: &str = "/1.0/images/aliases";

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(BASE, get(list).post(create))
        .route("/1.0/images/aliases/{*name}", get(show).put(replace).patch(patch).post(rename).delete(delete))
}

fn wire(alias: &AliasInfo) -> ImageAliasesEntry {
    ImageAliasesEntry {
        description: alias.description.clone(),
        target: alias.target.clone(),
        name: alias.name.clone(),
        kind: convert::kind(alias.image_type),
    }
}

fn fields(alias: &AliasInfo) -> ImageAliasesEntryPut {
    ImageAliasesEntryPut { description: alias.description.clone(), target: alias.target.clone() }
}

/// Whether the image that an alias stands for is shown to the caller.
async fn visible(app: &App, owner: &str, alias: &AliasInfo, access: &Access) -> bool {
    access.is_trusted() || vm_view::image(app, owner, &alias.target).await.is_ok_and(|image| image.public)
}

async fn list(State(app): State<Shared>, access: Access, query: Query) -> ApiResult {
    let Some(owner) = app.list_owner(query.project(), Feature::Images).await? else {
        return Ok(envelope::sync(json!([])));
    };
    let mut items = Vec::new();
    for alias in app.images.aliases(&owner).await? {
        if visible(&app, &owner, &alias, &access).await {
            items.push((url(BASE, &alias.name, &owner), json!(wire(&alias))));
        }
    }
    Ok(envelope::sync(render_list(&query, items)?))
}

async fn create(
    State(app): State<Shared>,
    query: Query,
    caller: Caller,
    Json(post): Json<ImageAliasesPost>,
) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    if post.name.is_empty() || post.target.is_empty() {
        return Err(ApiError::invalid("An alias has a \"name\" and a \"target\", the fingerprint of an image"));
    }
    app.images.alias_create(&owner, &post.name, &post.target, &post.description).await?;
    let location = url(BASE, &post.name, &owner);
    app.happened("image-alias-created", &location, Some(&owner), &caller);
    Ok(envelope::created(&location))
}

async fn show(State(app): State<Shared>, access: Access, query: Query, Path(name): Path<String>) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    let alias = vm_view::alias(&app, &owner, &name).await?;
    if !visible(&app, &owner, &alias, &access).await {
        return Err(ApiError::not_found(format!("Image alias \"{name}\" not found")));
    }
    Ok(envelope::tagged(wire(&alias), &etag::of(&fields(&alias))))
}

async fn write(app: &App, owner: &str, alias: &AliasInfo, put: ImageAliasesEntryPut, caller: &Caller) -> ApiResult {
    let name = &alias.name;
    if put.target.is_empty() {
        return Err(ApiError::invalid("An alias has a \"target\", the fingerprint of an image"));
    }
    app.images.alias_update(owner, name, Some(&put.target), Some(&put.description), Some(alias.revision)).await?;
    app.happened("image-alias-updated", &url(BASE, name, owner), Some(owner), caller);
    Ok(envelope::empty())
}

async fn replace(
    State(app): State<Shared>,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<ImageAliasesEntryPut>,
) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    let alias = app.images.alias_get(&owner, &name).await?;
    etag::check(&headers, &etag::of(&fields(&alias)))?;
    write(&app, &owner, &alias, put, &caller).await
}

async fn patch(
    State(app): State<Shared>,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    let owner = app.owner(query.project(), Feature::Images).await?;
    let alias = app.images.alias_get(&owner, &name).await?;
    let current = fields(&alias);
    etag::check(&headers, &etag::of(&current))?;
    write(&app, &owner, &alias, patched(&current, &bytes)?, &caller).await
}

async fn rename(
    State(app): State<Shared>,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    Json(post): Json<ImageAliasesEntryPost>,
) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    app.images.alias_rename(&owner, &name, &post.name).await?;
    let location = url(BASE, &post.name, &owner);
    app.happened("image-alias-renamed", &location, Some(&owner), &caller);
    Ok(envelope::created(&location))
}

async fn delete(State(app): State<Shared>, query: Query, Path(name): Path<String>, caller: Caller) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    app.images.alias_delete(&owner, &name).await?;
    app.happened("image-alias-deleted", &url(BASE, &name, &owner), Some(&owner), &caller);
    Ok(envelope::empty())
}
