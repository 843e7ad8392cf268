//! Making instances: from images, as copies of others.

use std::sync::Arc;

use axum::extract::State;
use berth_api::instances::{InstanceSource, InstancesPost};
use berth_instances::{CreateRequest, Original, Source, projects::Feature};
use http::HeaderMap;

use super::{super::vm_view, Prefix, import, operation_at};
use crate::{
    app::{App, Shared},
    convert::{images::progress, instances as convert},
    http::{ApiError, ApiResult, Caller, Query, body},
};

/// Key of an operation's metadata under which the progress of a copy is shown.
const PROGRESS: &str = "fs_progress";

/// `POST` on the list.
pub async fn create(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    if body::is_archive(&headers) {
        return import::import(app, prefix, query.project(), &caller, request).await;
    }
    let post: InstancesPost = body::parse(&body::read(request.into_body(), body::MAX_JSON).await?)?;
    let project = query.project().to_owned();
    app.instances.projects().get(&project).await?;
    let update = post.source.refresh && app.instances.get(&project, &post.name).is_ok();
    let create = request_of(&app, prefix, &project, post).await?;
    let name = create.name.clone();
    let key = match create.source {
        Source::Copy(original) if update => return refresh(app, project, name, original, &caller).await,
        Source::Copy(_) => PROGRESS,
        _ => "create_instance_from_image_unpack_progress",
    };
    let spec = operation_at("Creating instance", &project, &name, &caller);
    app.clone().operations.accept(spec, |context| async move {
        let shown: Arc<berth_images::Progress> = Arc::new(progress(context, key));
        app.instances.create(&project, create, &shown).await?;
        Ok(())
    })
}

/// `source.type=copy` into an instance that is there.
async fn refresh(app: Shared, project: String, name: String, original: Original, caller: &Caller) -> ApiResult {
    let spec = operation_at("Refreshing instance", &project, &name, caller).cancellable();
    app.clone().operations.accept(spec, |context| async move {
        let shown: Arc<berth_images::Progress> = Arc::new(progress(context, PROGRESS));
        app.instances.refresh_copy(&project, &name, &original, &shown).await?;
        Ok(())
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

/// What an instance is to be made of.
pub async fn source(app: &App, project: &str, source: &InstanceSource) -> ApiResult<Source> {
    match source.kind.as_str() {
        "none" => Ok(Source::None),
        "image" => image(app, project, source).await,
        "copy" => copy(app, project, source),
        "" => Err(ApiError::invalid("No source type given: \"source.type\" is image, copy or none")),
        "migration" => Err(ApiError::invalid(
            "Creating an instance by migration is not supported yet; create it from an image or a backup",
        )),
        other => Err(ApiError::invalid(format!("Unknown source type \"{other}\"; it is image, copy or none"))),
    }
}

/// An instance or `INSTANCE/SNAPSHOT`.
fn copy(app: &App, project: &str, source: &InstanceSource) -> ApiResult<Source> {
    if source.source.is_empty() {
        return Err(ApiError::invalid("No source given: \"source.source\" is the instance to copy"));
    }
    let from = if source.project.is_empty() { project } else { &source.project };
    let (name, snapshot) = match source.source.split_once('/') {
        Some((name, snapshot)) => (name, Some(snapshot.to_owned())),
        None => (source.source.as_str(), None),
    };
    app.instances.get(from, name)?;
    let mut original = Original::new(from.to_owned(), name.to_owned());
    original.snapshot = snapshot;
    original.instance_only = source.instance_only || source.container_only;
    Ok(Source::Copy(original))
}

async fn image(app: &App, project: &str, source: &InstanceSource) -> ApiResult<Source> {
    let owner = app.owner(project, Feature::Images).await?;
    let wanted = if source.fingerprint.is_empty() { &source.alias } else { &source.fingerprint };
    if !wanted.is_empty() {
        // A client that names a server has often copied the image here already.
        match vm_view::resolve(app, &owner, wanted).await {
            Ok(image) => return Ok(from_image(image.fingerprint, source.warm)),
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
    Ok(from_image(image.fingerprint, source.warm))
}

fn from_image(fingerprint: String, warm: bool) -> Source {
    if warm { Source::Warm { fingerprint } } else { Source::Image { fingerprint } }
}
