//! Making instances of backups that clients send.

use std::sync::Arc;

use axum::extract::Request;
use http::HeaderMap;

use super::{super::upload, Prefix, operation_at};
use crate::{
    app::Shared,
    convert::images::progress,
    http::{ApiError, ApiResult, Caller},
};

/// Longest archive that is taken.
const MAX_BACKUP: u64 = 4 << 40;
/// Key of an operation's metadata under which the progress is shown.
const PROGRESS: &str = "create_instance_from_backup_progress";

/// `POST` on the list with an archive as body. The headers `X-LXD-name` and `X-LXD-pool` put other values in the place of
/// those in the archive.
pub async fn import(app: Shared, prefix: Prefix, project: &str, caller: &Caller, request: Request) -> ApiResult {
    app.instances.projects().get(project).await?;
    let header = |headers: &HeaderMap, name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let (name, pool) = (header(request.headers(), "x-lxd-name"), header(request.headers(), "x-lxd-pool"));
    let place = app.instances.upload().await?;
    let file = tokio::fs::OpenOptions::new().write(true).open(place.path()).await?;
    upload::save(file, request.into_body().into_data_stream(), MAX_BACKUP).await?;
    let restored = app.instances.look_into(place).await?;
    let name = name.unwrap_or_else(|| restored.name().to_owned());
    berth_instances::check_name(&name).map_err(ApiError::invalid)?;
    if !prefix.admits(restored.kind()) {
        return Err(ApiError::invalid(format!(
            "The backup is one of a {}; send it to /1.0/instances",
            restored.kind()
        )));
    }
    if app.instances.get(project, &name).is_ok() {
        return Err(ApiError::conflict(format!(
            "Instance \"{name}\" already exists in project \"{project}\"; import the backup under another name"
        )));
    }
    let spec = operation_at("Restoring backup", project, &name, caller);
    let (project, operations) = (project.to_owned(), app.operations.clone());
    operations.accept(spec, |context| async move {
        let shown: Arc<berth_images::Progress> = Arc::new(progress(context, PROGRESS));
        app.instances.import(&project, &name, pool.as_deref(), restored, &shown).await?;
        Ok(())
    })
}
