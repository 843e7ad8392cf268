//! `logs`: log files of an instance.

use std::io;

use axum::{Router, body::Body, extract::Path, routing::get};
use serde_json::json;
use tokio::fs::{self, File};
use tokio_util::io::ReaderStream;

use super::{Target, happened};
use crate::{
    app::Shared,
    http::{ApiError, ApiResult, Caller, envelope, query::url},
};

/// The log of an instance's supervisor, and the names under which LXD's clients ask for such a log.
const SUPERVISOR: &str = "supervisor.log";
const ALIASES: &[&str] = &["lxc.log", "qemu.log"];

pub fn routes(base: &str) -> Router<Shared> {
    Router::new()
        .route(&format!("{base}/{{name}}/logs"), get(list))
        .route(&format!("{base}/{{name}}/logs/{{file}}"), get(read).delete(delete))
}

/// Name of a file in the log directory, and nothing else.
fn checked(file: &str) -> ApiResult<&str> {
    let good = !file.is_empty()
        && !file.starts_with('.')
        && file.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    match good {
        true if ALIASES.contains(&file) => Ok(SUPERVISOR),
        true => Ok(file),
        false => Err(ApiError::invalid(format!("Invalid log file name \"{}\"", file.escape_debug()))),
    }
}

async fn list(Target { app, prefix, instance }: Target) -> ApiResult {
    let name = &instance.name;
    let mut names = Vec::new();
    match fs::read_dir(app.instances.log_dir(&instance.project, &instance.name)?).await {
        Ok(mut dir) => {
            while let Some(entry) = dir.next_entry().await? {
                if entry.file_type().await?.is_file() {
                    names.extend(entry.file_name().into_string().ok());
                }
            }
        }
        // It never ran.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(ApiError::internal(format!("Cannot list the logs of \"{name}\": {error}"))),
    }
    names.sort();
    let base = url(prefix.base(), &instance.name, "default");
    Ok(envelope::sync(json!(names.iter().map(|file| format!("{base}/logs/{file}")).collect::<Vec<_>>())))
}

async fn read(Target { app, instance, .. }: Target, Path((_, file)): Path<(String, String)>) -> ApiResult {
    let name = &instance.name;
    let wanted = checked(&file)?;
    let path = app.instances.log_dir(&instance.project, &instance.name)?.join(wanted);
    let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path).await;
    match opened {
        Ok(log) if log.metadata().await?.is_file() => {
            Ok(envelope::raw(Body::from_stream(ReaderStream::new(log)), None, &file))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ApiError::internal(format!("Cannot read log file \"{file}\" of instance \"{name}\": {error}")))
        }
        _ => Err(ApiError::not_found(format!("Instance \"{name}\" has no log file \"{file}\""))),
    }
}

async fn delete(
    Target { app, instance, .. }: Target,
    Path((_, file)): Path<(String, String)>,
    caller: Caller,
) -> ApiResult {
    let name = &instance.name;
    checked(&file)?;
    if !file.starts_with("exec_") {
        return Err(ApiError::invalid(format!("Log file \"{file}\" is kept; only those of exec can be deleted")));
    }
    let path = app.instances.log_dir(&instance.project, &instance.name)?.join(&file);
    fs::remove_file(path).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ApiError::not_found(format!("Instance \"{name}\" has no log file \"{file}\"")),
        _ => ApiError::internal(format!("Cannot delete log file \"{file}\" of instance \"{name}\": {error}")),
    })?;
    happened(&app, "instance-log-deleted", &instance, &caller);
    Ok(envelope::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_files_are_taken() {
        assert_eq!(checked("exec_1-2.stdout").unwrap(), "exec_1-2.stdout");
        assert_eq!(checked("lxc.log").unwrap(), SUPERVISOR);
        for bad in ["", "..", ".hidden", "a/b", "a\0b", "é"] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
    }
}
