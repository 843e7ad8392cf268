//! Instances themselves: create, show, change, rename, delete.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use berth_api::instances::{InstancePost, InstancePut, InstanceSource, InstancesPost};
use berth_instances::{CreateRequest, Instance, Source, projects::Feature};
use http::HeaderMap;
use serde_json::{Map, json};

use super::{
    super::vm_view,
    Prefix,
    list::{Depth, live_state},
    operation,
};
use crate::{
    app::{App, Shared},
    convert::{images::progress, instances as convert, patched},
    http::{ApiError, ApiResult, Caller, Json, Query, body, envelope, etag},
};

pub fn routes(base: &str) -> Router<Shared> {
    Router::new().route(&format!("{base}/{{name}}"), get(show).put(replace).patch(patch).post(rename).delete(delete))
}

/// `POST` on the list.
pub async fn create(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    if headers.get(http::header::CONTENT_TYPE).is_some_and(|kind| kind == "application/octet-stream") {
        return Err(ApiError::invalid("Importing a backup is not supported yet; create the instance from an image"));
    }
    let post: InstancesPost = body::parse(&body::read(request.into_body(), body::MAX_JSON).await?)?;
    let project = query.project().to_owned();
    app.instances.projects().get(&project).await?;
    let create = request_of(&app, prefix, &project, post).await?;
    let name = create.name.clone();
    let spec = operation("Creating instance", &project, &name, &caller);
    let operations = app.operations.clone();
    operations.accept(spec, |context| async move {
        app.instances
            .create(&project, create, &progress(context, "create_instance_from_image_unpack_progress"))
            .await?;
        Ok(Map::new())
    })
}

async fn request_of(app: &App, prefix: Prefix, project: &str, post: InstancesPost) -> ApiResult<CreateRequest> {
    let name = if post.name.is_empty() { app.instances.free_name(project) } else { post.name };
    berth_instances::check_name(&name).map_err(ApiError::invalid)?;
    if !post.instance_type.is_empty() {
        return Err(ApiError::invalid(
            "Instance sizes (\"instance_type\") are not supported yet; set limits.cpu and limits.memory instead",
        ));
    }
    Ok(CreateRequest {
        name,
        kind: prefix.kind().unwrap_or_else(|| convert::kind_from(post.kind)),
        source: source(app, project, &post.source).await?,
        config: post.config,
        devices: post.devices,
        profiles: post.profiles,
        description: post.description,
        ephemeral: post.ephemeral,
    })
}

async fn source(app: &App, project: &str, source: &InstanceSource) -> ApiResult<Source> {
    match source.kind.as_str() {
        "none" => Ok(Source::None),
        "image" => image(app, project, source).await,
        "" => Err(ApiError::invalid("No source type given: \"source.type\" is image or none")),
        "copy" | "migration" | "backup" => Err(ApiError::invalid(format!(
            "Creating an instance by {} is not supported yet; create it from an image",
            source.kind
        ))),
        other => Err(ApiError::invalid(format!("Unknown source type \"{other}\"; it is image or none"))),
    }
}

async fn image(app: &App, project: &str, source: &InstanceSource) -> ApiResult<Source> {
    let owner = app.owner(project, Feature::Images).await?;
    let wanted = if source.fingerprint.is_empty() { &source.alias } else { &source.fingerprint };
    if !wanted.is_empty() {
        // A client that names a server has often copied the image here already.
        match vm_view::resolve(app, &owner, wanted).await {
            Ok(image) => return Ok(Source::Image { fingerprint: image.fingerprint }),
            Err(error) if source.server.is_empty() => return Err(error),
            Err(_) => {
                return Err(ApiError::invalid(format!(
                    "Image \"{wanted}\" is not here, and downloading from {} is not supported yet; import the image first",
                    source.server
                )));
            }
        }
    }
    if source.properties.is_empty() {
        return Err(ApiError::invalid("Must specify one of alias, fingerprint or properties for init from image"));
    }
    let has = |image: &berth_images::ImageInfo| {
        source.properties.iter().all(|(key, value)| image.properties.get(key) == Some(value))
    };
    let newest = app.images.list(&owner).await?.into_iter().filter(has).max_by_key(|image| image.uploaded_at);
    let image =
        newest.ok_or_else(|| ApiError::not_found("No image has the wanted properties; the image list shows them"))?;
    Ok(Source::Image { fingerprint: image.fingerprint })
}

async fn show(State(app): State<Shared>, prefix: Prefix, query: Query, Path(name): Path<String>) -> ApiResult {
    let instance = prefix.find(&app, query.project(), &name)?;
    let tag = convert::etag(&instance);
    if query.recursion() == 0 {
        return Ok(envelope::tagged(convert::instance(&instance), &tag));
    }
    let state = live_state(&app, &instance, Depth::Whole).await;
    Ok(envelope::tagged(convert::full(&instance, state), &tag))
}

fn check_put(put: &InstancePut, instance: &Instance) -> ApiResult<()> {
    if !put.restore.is_empty() {
        return Err(ApiError::invalid(format!("Instance \"{}\" has no snapshot \"{}\"", instance.name, put.restore)));
    }
    Ok(())
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
    check_put(&put, &instance)?;
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
    let put = patched(&convert::put(&instance), &bytes)?;
    check_put(&put, &instance)?;
    app.instances.update(query.project(), &name, convert::update(put), Some(instance.revision)).await?;
    Ok(envelope::empty())
}

/// `POST` renames; moving is not there yet.
async fn rename(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    Json(post): Json<InstancePost>,
) -> ApiResult {
    let project = query.project().to_owned();
    prefix.find(&app, &project, &name)?;
    if post.migration || !post.pool.is_empty() || !post.project.is_empty() {
        return Err(ApiError::invalid("Moving an instance is not supported yet; it can only be renamed"));
    }
    if post.name.is_empty() {
        return Err(ApiError::invalid("No name given: \"name\" is the new name of the instance"));
    }
    berth_instances::check_name(&post.name).map_err(ApiError::invalid)?;
    if app.instances.get(&project, &post.name).is_ok() {
        return Err(ApiError::conflict(format!("Name \"{}\" already in use", post.name)));
    }
    let operations = app.operations.clone();
    let spec = operation("Renaming instance", &project, &name, &caller);
    operations.accept(spec, |_| async move {
        app.instances.rename(&project, &name, &post.name).await?;
        Ok(json!({"name": post.name}).as_object().cloned().unwrap_or_default())
    })
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
