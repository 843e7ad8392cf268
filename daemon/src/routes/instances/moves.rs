//! `POST` on an instance: another name, another project, another pool.

use std::sync::Arc;

use berth_api::instances::InstancePost;
use berth_instances::MoveRequest;
use serde_json::json;

use super::{Target, operation};
use crate::{
    convert::images::progress,
    http::{ApiError, ApiResult, Caller, Json},
};

pub async fn relocate(
    Target { app, instance, .. }: Target,
    caller: Caller,
    Json(post): Json<InstancePost>,
) -> ApiResult {
    let name = &instance.name;
    let given = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    let request = MoveRequest {
        name: given(&post.name),
        project: given(&post.project),
        pool: given(&post.pool),
        instance_only: post.instance_only || post.container_only,
    };
    if post.target.is_some() || (post.migration && request.pool.is_none() && request.project.is_none()) {
        return Err(ApiError::invalid(
            "Moving an instance to another server is not supported yet; \"pool\" and \"project\" move it on this one",
        ));
    }
    let (new_name, new_project) =
        (request.name.as_ref().unwrap_or(&instance.name), request.project.as_ref().unwrap_or(&instance.project));
    if !post.migration && request.name.is_none() && request.pool.is_none() && request.project.is_none() {
        return Err(ApiError::invalid("No name given: \"name\" is the new name of the instance"));
    }
    berth_instances::check_name(new_name).map_err(ApiError::invalid)?;
    let stays = (new_name, new_project) == (&instance.name, &instance.project);
    if !stays && app.instances.get(new_project, new_name).is_ok() {
        return Err(ApiError::conflict(format!("Name \"{new_name}\" already in use")));
    }
    if instance.is_running() {
        return Err(ApiError::invalid(format!(
            "Instance \"{name}\" is running and cannot be renamed or moved; stop it first"
        )));
    }
    let result = json!({"name": new_name}).as_object().cloned().unwrap_or_default();
    let title = if post.migration { "Moving instance" } else { "Renaming instance" };
    let spec = operation(title, &instance, &caller);
    app.clone().operations.accept(spec, |context| async move {
        let shown: Arc<berth_images::Progress> = Arc::new(progress(context, "fs_progress"));
        app.instances.relocate(&instance.project, &instance.name, request, &shown).await?;
        Ok(result)
    })
}
