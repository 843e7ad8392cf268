//! `/1.0/projects`.

use std::collections::BTreeMap;

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use berth_api::projects::{Project as WireProject, ProjectPut, ProjectState, ProjectStateResource, ProjectsPost};
use berth_instances::{Kind, projects::Project};
use http::HeaderMap;
use serde_json::json;

use crate::{
    app::{App, Shared},
    convert::{patched, used_by::Users},
    http::{
        ApiError, ApiResult, Caller, Json, Query, body, envelope, etag,
        query::{DEFAULT_PROJECT, render_list, url},
    },
};

const BASE: &str = "/1.0/projects";

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(BASE, get(list).post(create))
        .route("/1.0/projects/{name}", get(show).put(replace).patch(patch).post(rename).delete(delete))
        .route("/1.0/projects/{name}/state", get(state))
}

fn wire(project: &Project, used_by: Vec<String>) -> WireProject {
    WireProject {
        config: project.config.clone(),
        description: project.description.clone(),
        name: project.name.clone(),
        used_by,
    }
}

fn fields(project: &Project) -> ProjectPut {
    ProjectPut { config: project.config.clone(), description: project.description.clone() }
}

/// Projects themselves belong to none.
fn location(name: &str) -> String {
    url(BASE, name, DEFAULT_PROJECT)
}

async fn used_by(app: &App, users: &Users, name: &str) -> ApiResult<Vec<String>> {
    let mut used_by = users.of_project(name);
    used_by.extend(app.images.list(name).await?.iter().map(|image| url("/1.0/images", &image.fingerprint, name)));
    let networks = app.networks.list(name).await?;
    used_by.extend(networks.iter().filter(|n| n.managed).map(|network| url("/1.0/networks", &network.name, name)));
    Ok(used_by)
}

async fn list(State(app): State<Shared>, query: Query) -> ApiResult {
    let users = Users::read(&app).await?;
    let mut items = Vec::new();
    for project in app.instances.projects().list().await? {
        let used_by = used_by(&app, &users, &project.name).await?;
        items.push((location(&project.name), json!(wire(&project, used_by))));
    }
    Ok(envelope::sync(render_list(&query, items)?))
}

async fn create(State(app): State<Shared>, caller: Caller, Json(post): Json<ProjectsPost>) -> ApiResult {
    app.instances.projects().create(&post.name, post.description, post.config).await?;
    let location = location(&post.name);
    app.happened("project-created", &location, Some(&post.name), &caller);
    Ok(envelope::created(&location))
}

async fn show(State(app): State<Shared>, Path(name): Path<String>) -> ApiResult {
    let project = app.instances.projects().get(&name).await?;
    let used_by = used_by(&app, &Users::read(&app).await?, &name).await?;
    Ok(envelope::tagged(wire(&project, used_by), &etag::of(&fields(&project))))
}

async fn write(app: &App, project: &Project, put: ProjectPut, caller: &Caller) -> ApiResult {
    app.instances.projects().update(&project.name, put.description, put.config, project.revision).await?;
    app.happened("project-updated", &location(&project.name), Some(&project.name), caller);
    Ok(envelope::empty())
}

async fn replace(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<ProjectPut>,
) -> ApiResult {
    let project = app.instances.projects().get(&name).await?;
    etag::check(&headers, &etag::of(&fields(&project)))?;
    write(&app, &project, put, &caller).await
}

async fn patch(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    let project = app.instances.projects().get(&name).await?;
    let current = fields(&project);
    etag::check(&headers, &etag::of(&current))?;
    write(&app, &project, patched(&current, &bytes)?, &caller).await
}

async fn rename(State(app): State<Shared>, Path(name): Path<String>) -> ApiResult {
    app.instances.projects().get(&name).await?;
    Err(ApiError::invalid(format!(
        "Project \"{name}\" cannot be renamed: this version does not support it; create another project instead"
    )))
}

async fn delete(State(app): State<Shared>, Path(name): Path<String>, caller: Caller) -> ApiResult {
    app.instances.projects().delete(&name).await?;
    app.happened("project-deleted", &location(&name), Some(&name), &caller);
    Ok(envelope::empty())
}

async fn state(State(app): State<Shared>, Path(name): Path<String>) -> ApiResult {
    app.instances.projects().get(&name).await?;
    let users = Users::read(&app).await?;
    let of_kind = |kind| users.instances_of(&name).filter(|i| i.kind == kind).count();
    let networks = app.networks.list(&name).await?.iter().filter(|n| n.managed).count();
    let usage = [
        ("containers", of_kind(Kind::Container)),
        ("instances", users.instances_of(&name).count()),
        ("networks", networks),
        ("virtual-machines", of_kind(Kind::VirtualMachine)),
    ];
    // There are no limits on projects yet: -1 is the wire's "none".
    let resource = |(key, count): (&str, usize)| {
        let usage = i64::try_from(count).unwrap_or(i64::MAX);
        (key.to_owned(), ProjectStateResource { limit: -1, usage })
    };
    let resources: BTreeMap<_, _> = usage.into_iter().map(resource).collect();
    Ok(envelope::sync(ProjectState { resources }))
}
