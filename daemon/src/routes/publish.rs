//! Making images of instances and snapshots.

use berth_api::images::{ImagesPost, ImagesPostSource};
use berth_images::{Compression, ImportOptions, PublishRequest, PublishSource};
use berth_instances::{Instance, projects::Change};

use super::images::{BASE, result};
use crate::{
    app::Shared,
    convert::images as convert,
    http::{ApiError, ApiResult, Caller, query::url},
    operations::Spec,
};

/// `POST` on the list of images with an instance or a snapshot as source.
pub fn publish(
    app: Shared,
    owner: String,
    project: &str,
    caller: &Caller,
    post: ImagesPost,
    source: ImagesPostSource,
) -> ApiResult {
    let project = if source.project.is_empty() { project } else { &source.project }.to_owned();
    let (name, snapshot) = match source.name.split_once('/') {
        Some((name, snapshot)) => (name.to_owned(), Some(snapshot.to_owned())),
        None => (source.name, None),
    };
    if (source.kind == "snapshot") != snapshot.is_some() {
        return Err(ApiError::invalid(format!(
            "Source \"{name}\" of type {}: a snapshot is named INSTANCE/SNAPSHOT, an instance without a slash",
            source.kind
        )));
    }
    let instance = app.instances.get(&project, &name)?;
    let mut post = post;
    if post.compression_algorithm.is_empty() {
        post.compression_algorithm = app.settings.get("images.compression_algorithm").unwrap_or_default();
    }
    let request = request(&instance, snapshot.as_deref(), post)?;
    let caller = caller.clone();
    let spec = Spec::new("Publishing instance", Some(&owner), &caller)
        .resource("instances", url("/1.0/instances", &name, &project))
        .cancellable();
    app.clone().operations.accept(spec, |context| async move {
        let progress = convert::progress(context, "create_image_from_container_pack_progress");
        let admission = app.instances.projects().admission(&owner, Change::Image);
        let loan = app.instances.lend(&project, &name, snapshot).await?;
        let disk = loan.disk();
        let source = match &disk {
            None => PublishSource::Container(loan.volume()),
            Some(disk) => PublishSource::VirtualMachine(loan.volume(), disk),
        };
        let image = app.images.publish(&owner, source, request, &admission, &progress).await?;
        app.happened("image-created", &url(BASE, &image.fingerprint, &owner), Some(&owner), &caller);
        Ok(result(&image))
    })
}

fn request(instance: &Instance, snapshot: Option<&str>, post: ImagesPost) -> ApiResult<PublishRequest> {
    if snapshot.is_some_and(|snapshot| instance.snapshot(snapshot).is_none()) {
        return Err(ApiError::not_found(format!(
            "Instance \"{}\" has no snapshot \"{}\"; its info shows those there are",
            instance.name,
            snapshot.unwrap_or_default().escape_debug()
        )));
    }
    if snapshot.is_none() && instance.is_running() {
        return Err(ApiError::invalid(format!(
            "Instance \"{}\" is running and cannot be published; stop it first, or publish a snapshot of it",
            instance.name
        )));
    }
    Ok(PublishRequest {
        architecture: instance.architecture.clone(),
        expires_at: if post.expires_at.is_never() { 0 } else { post.expires_at.0.as_second() },
        properties: post.properties,
        compression: Compression::parse(&post.compression_algorithm).map_err(ApiError::invalid)?,
        options: ImportOptions {
            public: post.public,
            aliases: post.aliases.into_iter().map(|alias| (alias.name, alias.description)).collect(),
            filename: post.filename,
            profiles: post.profiles,
            ..ImportOptions::default()
        },
    })
}
