//! `/1.0/projects`.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use berth_api::projects::{
    Project as WireProject, ProjectPost, ProjectPut, ProjectState, ProjectStateResource, ProjectsPost,
};
use berth_instances::projects::{Object, Project, Usage};
use http::HeaderMap;
use serde_json::json;

use crate::{
    access::Access,
    app::{App, Shared},
    convert::patched,
    http::{
        ApiResult, Caller, Json, Query, body, envelope, etag,
        query::{DEFAULT_PROJECT, render_list, url},
    },
    operations::Spec,
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

/// URLs of what a project holds.
async fn used_by(app: &App, name: &str) -> ApiResult<Vec<String>> {
    let contents = app.instances.projects().contents(name).await?;
    let url_of = |object: &Object| match object {
        Object::Instance(instance) => url("/1.0/instances", instance, name),
        Object::Image(fingerprint) => url("/1.0/images", fingerprint, name),
        Object::Profile(profile) => url("/1.0/profiles", profile, name),
        Object::Network(network) => url("/1.0/networks", network, name),
    };
    Ok(contents.iter().map(url_of).collect())
}

async fn list(State(app): State<Shared>, access: Access, query: Query) -> ApiResult {
    let mut items = Vec::new();
    let projects = app.instances.projects().list().await?;
    for project in projects.into_iter().filter(|project| access.has_project(&project.name)) {
        let used_by = used_by(&app, &project.name).await?;
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
    let used_by = used_by(&app, &name).await?;
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

async fn rename(
    State(app): State<Shared>,
    Path(name): Path<String>,
    caller: Caller,
    Json(post): Json<ProjectPost>,
) -> ApiResult {
    app.instances.projects().get(&name).await?;
    let spec = Spec::new("Renaming project", None, &caller);
    app.clone().operations.accept(spec, |_| async move {
        app.instances.projects().rename(&name, &post.name).await?;
        app.trust.project_changed(&name, Some(&post.name)).await?;
        let context = json!({"old_name": name});
        app.happened_with("project-renamed", &location(&post.name), Some(&post.name), &caller, context);
        Ok(())
    })
}

async fn delete(State(app): State<Shared>, Path(name): Path<String>, caller: Caller) -> ApiResult {
    app.instances.projects().delete(&name).await?;
    app.trust.project_changed(&name, None).await?;
    app.happened("project-deleted", &location(&name), Some(&name), &caller);
    Ok(envelope::empty())
}

async fn state(State(app): State<Shared>, Path(name): Path<String>) -> ApiResult {
    // The wire's "none" is -1.
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let resource = |usage: Usage| {
        let limit = usage.limit.map_or(-1, signed);
        (usage.resource.name().to_owned(), ProjectStateResource { limit, usage: signed(usage.used) })
    };
    let resources = app.instances.projects().usage(&name).await?.into_iter().map(resource).collect();
    Ok(envelope::sync(ProjectState { resources }))
}
