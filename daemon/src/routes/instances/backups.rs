//! Backups of instances: archives that the daemon keeps for a while, and archives that are fetched as they are made.

use std::sync::Arc;

use axum::{Router, body::Body, extract::Path, response::Response, routing::get};
use berth_api::instances::{InstanceBackupPost, InstanceBackupsPost};
use berth_images::Compression;
use berth_instances::{Backup, Instance, NewBackup};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::{io::AsyncReadExt, net::unix::pipe, task::JoinHandle};
use tokio_util::io::ReaderStream;

use super::{Target, operation};
use crate::{
    app::{App, Shared},
    convert::{images::progress, instances as convert},
    http::{
        ApiError, ApiResult, Caller, Json, Query, envelope,
        query::{encode_path, render_list, url},
    },
    operations::Spec,
};

/// Key of an operation's metadata under which the progress of a backup is shown.
const PROGRESS: &str = "create_backup_progress";
/// Configuration, of the project or the server, that says how backups are compressed.
const COMPRESSION: &str = "backups.compression_algorithm";
/// Bytes of an archive that are passed on at once.
const CHUNK: usize = 256 << 10;

pub fn routes(base: &str) -> Router<Shared> {
    Router::new()
        .route(&format!("{base}/{{name}}/backups"), get(list).post(create))
        .route(&format!("{base}/{{name}}/backups/{{backup}}"), get(show).post(rename).delete(delete))
        .route(&format!("{base}/{{name}}/backups/{{backup}}/export"), get(export))
        .route(&format!("{base}/{{name}}/export"), get(direct))
}

/// URL of a backup.
fn location(base: &str, instance: &Instance, backup: &str) -> String {
    url(&format!("{base}/{}/backups", encode_path(&instance.name)), backup, &instance.project)
}

/// The description of an operation on a backup. LXD's client learns the name from the resource, whose path is no real one.
fn operation_on(description: &str, instance: &Instance, backup: &str, caller: &Caller) -> Spec {
    operation(description, instance, caller).resource("backups", format!("/1.0/backups/{backup}"))
}

async fn list(Target { app, prefix, instance }: Target, query: Query) -> ApiResult {
    let backups = app.instances.backups(&instance.project, &instance.name).await?;
    let items =
        backups.iter().map(|backup| (location(prefix.base(), &instance, &backup.name), json!(convert::backup(backup))));
    Ok(envelope::sync(render_list(&query, items.collect())?))
}

async fn find(app: &App, instance: &Instance, backup: &str) -> ApiResult<Backup> {
    let backups = app.instances.backups(&instance.project, &instance.name).await?;
    backups.into_iter().find(|known| known.name == backup).ok_or_else(|| {
        ApiError::not_found(format!("Instance \"{}\" has no backup \"{}\"", instance.name, backup.escape_debug()))
    })
}

/// How an archive is to be compressed: as the request, else the project, else the server says.
async fn compression(app: &App, project: &str, asked: &str) -> ApiResult<Compression> {
    let project = app.instances.projects().get(project).await?;
    let server = app.settings.get(COMPRESSION);
    let given = [Some(asked), project.config.get(COMPRESSION).map(String::as_str), server.as_deref()];
    let chosen = given.into_iter().flatten().find(|name| !name.is_empty()).unwrap_or_default();
    Compression::parse(chosen).map_err(ApiError::invalid)
}

async fn create(
    Target { app, instance, .. }: Target,
    caller: Caller,
    Json(post): Json<InstanceBackupsPost>,
) -> ApiResult {
    let compression = compression(&app, &instance.project, &post.compression_algorithm).await?;
    // There is no driver yet that has a form of its own, so `optimized_storage` makes no difference.
    let new = NewBackup {
        name: (!post.name.is_empty()).then_some(post.name),
        expires_at: convert::date(post.expires_at),
        instance_only: post.instance_only || post.container_only,
    };
    let reserved = app.instances.reserve_backup(&instance.project, &instance.name, new).await?;
    let spec = operation_on("Backing up instance", &instance, reserved.name(), &caller).cancellable();
    app.clone().operations.accept(spec, |context| async move {
        let shown: Arc<berth_images::Progress> = Arc::new(progress(context, PROGRESS));
        app.instances.make_backup(reserved, compression, &shown).await?;
        Ok(())
    })
}

async fn show(Target { app, instance, .. }: Target, Path((_, backup)): Path<(String, String)>) -> ApiResult {
    Ok(envelope::sync(convert::backup(&find(&app, &instance, &backup).await?)))
}

async fn rename(
    Target { app, instance, .. }: Target,
    Path((_, backup)): Path<(String, String)>,
    caller: Caller,
    Json(post): Json<InstanceBackupPost>,
) -> ApiResult {
    find(&app, &instance, &backup).await?;
    if post.name.is_empty() {
        return Err(ApiError::invalid("No name given: \"name\" is the new name of the backup"));
    }
    if find(&app, &instance, &post.name).await.is_ok() {
        return Err(ApiError::conflict(format!("Name \"{}\" already in use", post.name)));
    }
    let spec = operation_on("Renaming instance backup", &instance, &backup, &caller);
    app.clone().operations.accept(spec, |_| async move {
        app.instances.rename_backup(&instance.project, &instance.name, &backup, &post.name).await?;
        Ok(())
    })
}

async fn delete(
    Target { app, instance, .. }: Target,
    Path((_, backup)): Path<(String, String)>,
    caller: Caller,
) -> ApiResult {
    find(&app, &instance, &backup).await?;
    let spec = operation_on("Removing instance backup", &instance, &backup, &caller);
    app.clone().operations.accept(spec, |_| async move {
        app.instances.delete_backup(&instance.project, &instance.name, &backup).await?;
        Ok(())
    })
}

/// The file.
async fn export(Target { app, instance, .. }: Target, Path((_, backup)): Path<(String, String)>) -> ApiResult {
    let name = &instance.name;
    let path = app.instances.backup_file(&instance.project, &instance.name, &backup).await?;
    let failed = |error: std::io::Error| ApiError::internal(format!("Cannot read the backup: {error}"));
    let file = tokio::fs::File::open(&path).await.map_err(failed)?;
    let length = file.metadata().await.map_err(failed)?.len();
    app.instances.backup_retrieved(&instance.project, &instance.name, &backup);
    let body = Body::from_stream(ReaderStream::with_capacity(file, CHUNK));
    Ok(envelope::raw(body, Some(length), &format!("{name}.backup")))
}

/// Work that ends when nobody waits for it any more.
struct Work(JoinHandle<ApiResult<()>>);

impl Work {
    async fn end(&mut self) -> ApiResult<()> {
        (&mut self.0).await.unwrap_or_else(|error| Err(ApiError::internal(format!("A task failed: {error}"))))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An archive that goes to the client as it is made; there is no copy of it here. What fails later than at the beginning
/// breaks the connection off.
async fn direct(Target { app, instance, .. }: Target, query: Query) -> ApiResult {
    let name = &instance.name;
    let compression = compression(&app, &instance.project, query.get("compression").unwrap_or_default()).await?;
    let instance_only = query.flag("instance-only");
    let (mut output, input) = pipes().map_err(|error| ApiError::internal(format!("Cannot make a pipe: {error}")))?;
    let filename = format!("{name}.tar{}", compression.ending());
    let mut work = Work(tokio::spawn(async move {
        app.instances.export(&instance.project, &instance.name, instance_only, compression, input).await?;
        Ok(())
    }));
    let mut first = vec![0; CHUNK];
    let count = output.read(&mut first).await?;
    if count == 0 {
        work.end().await?;
    }
    first.truncate(count);
    Ok(raw(first, output, work, &filename))
}

fn raw(first: Vec<u8>, output: pipe::Receiver, mut work: Work, filename: &str) -> Response {
    let end = async move { work.end().await.map(|()| Bytes::new()).map_err(std::io::Error::other) };
    let all = stream::once(std::future::ready(Ok(Bytes::from(first))))
        .chain(ReaderStream::with_capacity(output, CHUNK))
        .chain(stream::once(end))
        .try_filter(|bytes| std::future::ready(!bytes.is_empty()));
    envelope::raw(Body::from_stream(all), None, filename)
}

fn pipes() -> std::io::Result<(pipe::Receiver, std::fs::File)> {
    let (output, input) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&output, true)?;
    Ok((pipe::Receiver::from_owned_fd(output)?, input.into()))
}
