//! `/1.0/images/FINGERPRINT/warm`: runs of an image from which new virtual machines go on.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State},
};
use berth_api::images::{ImageWarm, ImageWarmPost};
use berth_instances::{CreateRequest, Kind, Source, Warm, projects::Feature};
use serde_json::{Map, json};

use super::images::BASE;
use crate::{
    app::Shared,
    convert::images::progress,
    http::{ApiResult, Caller, Query, body, envelope, query::url},
    operations::Spec,
};

/// Name in the request of an instance that is not to be.
const NAME: &str = "warm";

/// What there is of an image that the project can see.
pub async fn list(State(app): State<Shared>, query: Query, Path(fingerprint): Path<String>) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    let image = app.images.get(&owner, &fingerprint).await?;
    let found = app.instances.warm_images(Warm::Image(&image.fingerprint)).await?;
    let view = found.into_iter().map(|warm| ImageWarm {
        pool: warm.pool,
        cpus: warm.vcpus.into(),
        memory: warm.memory,
        disk: warm.disk,
        nics: warm.nics as u64,
        created_at: warm.created_at.into(),
    });
    Ok(envelope::sync(json!(view.collect::<Vec<_>>())))
}

/// Makes one for the configuration in the body, unless there is one.
pub async fn make(
    State(app): State<Shared>,
    query: Query,
    Path(fingerprint): Path<String>,
    caller: Caller,
    request: Body,
) -> ApiResult {
    let post: ImageWarmPost = body::parse(&body::read(request, body::MAX_JSON).await?)?;
    let project = query.project().to_owned();
    let owner = app.owner(&project, Feature::Images).await?;
    let image = app.images.get(&owner, &fingerprint).await?;
    let request = CreateRequest {
        name: NAME.to_owned(),
        kind: Kind::VirtualMachine,
        source: Source::Warm { fingerprint: image.fingerprint.clone() },
        config: post.config,
        devices: post.devices,
        profiles: post.profiles,
        description: String::new(),
        ephemeral: false,
    };
    let location = url(BASE, &image.fingerprint, &owner);
    let spec = Spec::new("Warming image", Some(&owner), &caller).resource("images", location);
    let operations = app.operations.clone();
    operations.accept(spec, |context| async move {
        let shown: Arc<berth_images::Progress> = Arc::new(progress(context, "warm_image_progress"));
        app.instances.warm_up(&project, request, &shown).await?;
        Ok(Map::new())
    })
}

/// Removes all of an image.
pub async fn remove(State(app): State<Shared>, query: Query, Path(fingerprint): Path<String>) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    let image = app.images.get(&owner, &fingerprint).await?;
    app.instances.cool_down(Warm::Image(&image.fingerprint)).await?;
    Ok(envelope::empty())
}
