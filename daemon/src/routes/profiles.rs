//! `/1.0/profiles`.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    routing::get,
};
use berth_api::profiles::{Profile as WireProfile, ProfilePost, ProfilePut, ProfilesPost};
use berth_instances::{profiles::Profile, projects::Feature};
use http::HeaderMap;
use serde_json::json;

use crate::{
    app::{App, Shared},
    convert::{patched, used_by::Users},
    http::{
        ApiError, ApiResult, Caller, Json, Query, body, envelope, etag,
        query::{render_list, url},
    },
};

const BASE: &str = "/1.0/profiles";

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(BASE, get(list).post(create))
        .route("/1.0/profiles/{name}", get(show).put(replace).patch(patch).post(rename).delete(delete))
}

fn wire(profile: &Profile, used_by: Vec<String>) -> WireProfile {
    WireProfile {
        config: profile.config.clone(),
        description: profile.description.clone(),
        devices: profile.devices.clone(),
        name: profile.name.clone(),
        used_by,
    }
}

fn fields(profile: &Profile) -> ProfilePut {
    ProfilePut {
        config: profile.config.clone(),
        description: profile.description.clone(),
        devices: profile.devices.clone(),
    }
}

async fn list(State(app): State<Shared>, query: Query) -> ApiResult {
    let project = query.project();
    let Some(owner) = app.list_owner(project, Feature::Profiles).await? else {
        return Ok(envelope::sync(json!([])));
    };
    let profiles = app.instances.profiles().list(project).await?;
    let users = Users::read(&app).await?;
    let items = profiles.iter().map(|profile| {
        let used_by = users.of_profile(&owner, &profile.name);
        (url(BASE, &profile.name, &owner), json!(wire(profile, used_by)))
    });
    Ok(envelope::sync(render_list(&query, items.collect())?))
}

async fn create(State(app): State<Shared>, query: Query, caller: Caller, Json(post): Json<ProfilesPost>) -> ApiResult {
    let project = query.project();
    app.instances.create_profile(project, &post.name, post.description, post.config, post.devices).await?;
    let location = url(BASE, &post.name, project);
    app.happened("profile-created", &location, Some(project), &caller);
    Ok(envelope::created(&location))
}

async fn show(State(app): State<Shared>, query: Query, Path(name): Path<String>) -> ApiResult {
    let project = query.project();
    let profile = app.instances.profiles().get(project, &name).await?;
    let owner = app.owner(project, Feature::Profiles).await?;
    let used_by = Users::read(&app).await?.of_profile(&owner, &name);
    Ok(envelope::tagged(wire(&profile, used_by), &etag::of(&fields(&profile))))
}

async fn write(app: &App, project: &str, profile: &Profile, put: ProfilePut, caller: &Caller) -> ApiResult {
    let name = &profile.name;
    app.instances.update_profile(project, name, put.description, put.config, put.devices, profile.revision).await?;
    app.happened("profile-updated", &url(BASE, name, project), Some(project), caller);
    Ok(envelope::empty())
}

async fn replace(
    State(app): State<Shared>,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<ProfilePut>,
) -> ApiResult {
    let profile = app.instances.profiles().get(query.project(), &name).await?;
    etag::check(&headers, &etag::of(&fields(&profile)))?;
    write(&app, query.project(), &profile, put, &caller).await
}

async fn patch(
    State(app): State<Shared>,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes: Bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    let profile = app.instances.profiles().get(query.project(), &name).await?;
    let current = fields(&profile);
    etag::check(&headers, &etag::of(&current))?;
    write(&app, query.project(), &profile, patched(&current, &bytes)?, &caller).await
}

async fn rename(
    State(app): State<Shared>,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    Json(post): Json<ProfilePost>,
) -> ApiResult {
    let project = query.project();
    if post.name.is_empty() {
        return Err(ApiError::invalid("No name given: \"name\" is the new name of the profile"));
    }
    app.instances.rename_profile(project, &name, &post.name).await?;
    let location = url(BASE, &post.name, project);
    app.happened("profile-renamed", &location, Some(project), &caller);
    Ok(envelope::created(&location))
}

async fn delete(State(app): State<Shared>, query: Query, Path(name): Path<String>, caller: Caller) -> ApiResult {
    let project = query.project();
    app.instances.delete_profile(project, &name).await?;
    app.happened("profile-deleted", &url(BASE, &name, project), Some(project), &caller);
    Ok(envelope::empty())
}
