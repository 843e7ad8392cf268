//! `POST` on `/rebuild`: a new content for an instance.

use std::sync::Arc;

use axum::{Router, routing::post};
use berth_api::instances::InstanceRebuildPost;
use berth_instances::Source;

use super::{Target, create, operation};
use crate::{
    app::Shared,
    convert::images::progress,
    http::{ApiError, ApiResult, Caller, Json},
};

/// Key of an operation's metadata under which the progress is shown.
const PROGRESS: &str = "rebuild_progress";

pub fn routes(base: &str) -> Router<Shared> {
    Router::new().route(&format!("{base}/{{name}}/rebuild"), post(rebuild))
}

async fn rebuild(
    Target { app, instance, .. }: Target,
    caller: Caller,
    Json(post): Json<InstanceRebuildPost>,
) -> ApiResult {
    let name = &instance.name;
    let source = create::source(&app, &instance.project, &post.source).await?;
    if matches!(source, Source::Copy(_)) {
        return Err(ApiError::invalid(
            "An instance is rebuilt from an image or as an empty one: \"source.type\" is image or none",
        ));
    }
    if instance.is_running() {
        return Err(ApiError::invalid(format!("Instance \"{name}\" is running and cannot be rebuilt; stop it first")));
    }
    let spec = operation("Rebuilding instance", &instance, &caller).cancellable();
    app.clone().operations.accept(spec, |context| async move {
        let shown: Arc<berth_images::Progress> = Arc::new(progress(context, PROGRESS));
        app.instances.rebuild(&instance.project, &instance.name, source, &shown).await?;
        Ok(())
    })
}
