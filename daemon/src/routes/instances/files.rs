//! `files`: read, write and delete files of an instance.

use std::io;

use axum::{Router, body::Body, response::Response, routing::get};
use berth_api::instances::{HEADER_GID, HEADER_MODE, HEADER_TYPE, HEADER_UID, HEADER_WRITE};
use berth_guest::{
    client::FileSession,
    protocol::{FileKind, FileRequest, FileStat, Ownership, WriteMode},
};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderValue, header};
use tokio::io::AsyncReadExt;
use tokio_util::io::{ReaderStream, StreamReader};

use super::{Target, happened};
use crate::{
    app::{App, Shared},
    http::{ApiError, ApiResult, Caller, Query, body, envelope},
};

/// Longest target of a link: the kernel's `PATH_MAX`.
const MAX_TARGET: usize = 4096;

pub fn routes(base: &str) -> Router<Shared> {
    Router::new().route(&format!("{base}/{{name}}/files"), get(read).head(stat).post(write).delete(delete))
}

/// The path of a request; without a leading slash it is below `/` as well.
fn path(query: &Query) -> ApiResult<String> {
    let path =
        query.get("path").ok_or_else(|| ApiError::invalid("No path given: the parameter \"path\" names the file"))?;
    if path.contains('\0') {
        return Err(ApiError::invalid("Invalid path: it contains a zero byte"));
    }
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::File | FileKind::Other => "file",
    }
}

/// The headers that tell what a file is.
fn describe(mut response: Response, stat: &FileStat) -> Response {
    let values = [
        (HEADER_UID, stat.uid.to_string()),
        (HEADER_GID, stat.gid.to_string()),
        (HEADER_MODE, format!("{:04o}", stat.mode)),
        (HEADER_TYPE, kind_name(stat.kind).to_owned()),
    ];
    for (name, value) in values {
        if let (Ok(name), Ok(value)) = (http::HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Last part of a path, as it may stand in a header.
fn base_name(path: &str) -> String {
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    name.chars().map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | ';' | '\\') { c } else { '_' }).collect()
}

fn unexpected(session: &FileSession) -> ApiError {
    ApiError::internal(format!("The guest answered something else than was asked for: {session:?}"))
}

async fn read(Target { app, instance, .. }: Target, query: Query, caller: Caller) -> ApiResult {
    let path = path(&query)?;
    let response =
        match app.instances.file(&instance.project, &instance.name, FileRequest::Read { path: path.clone() }).await? {
            FileSession::File { stat, body } => {
                // Files of /proc and the like say 0 and have content; what grows meanwhile ends where it was.
                let (body, length) = match stat.size {
                    0 => (Body::from_stream(ReaderStream::new(body)), None),
                    size => (Body::from_stream(ReaderStream::new(body.take(size))), Some(size)),
                };
                describe(envelope::raw(body, length, &base_name(&path)), &stat)
            }
            FileSession::Directory { stat, entries } => describe(envelope::sync(entries), &stat),
            FileSession::Link { stat, target } => {
                let length = target.len() as u64;
                describe(envelope::raw(Body::from(target), Some(length), &base_name(&path)), &stat)
            }
            other => return Err(unexpected(&other)),
        };
    happened(&app, "instance-file-retrieved", &instance, &caller);
    Ok(response)
}

async fn stat(Target { app, instance, .. }: Target, query: Query) -> ApiResult {
    let path = path(&query)?;
    match app.instances.file(&instance.project, &instance.name, FileRequest::Stat { path }).await? {
        FileSession::Stat(stat) => {
            let mut response = describe(Response::new(Body::empty()), &stat);
            if stat.kind == FileKind::File {
                response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(stat.size));
            }
            Ok(response)
        }
        other => Err(unexpected(&other)),
    }
}

/// What the headers of a `POST` say.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    kind: FileKind,
    mode: WriteMode,
    ownership: Ownership,
}

fn wanted(headers: &HeaderMap) -> ApiResult<Wanted> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty());
    let number = |name: &str, radix: u32, cap: u32| match text(name) {
        // Go's "not given".
        None | Some("-1") => Ok(None),
        Some(value) => match u32::from_str_radix(value.trim_start_matches("0o"), radix) {
            Ok(number) if number <= cap => Ok(Some(number)),
            _ => Err(ApiError::invalid(format!("Invalid header {name}: \"{value}\""))),
        },
    };
    // Octal if it begins with 0, as in C; clients send four octal digits.
    let radix = if text(HEADER_MODE).is_some_and(|mode| mode.starts_with('0')) { 8 } else { 10 };
    let kind = match text(HEADER_TYPE) {
        None | Some("file") => FileKind::File,
        Some("directory") => FileKind::Directory,
        Some("symlink") => FileKind::Symlink,
        Some(other) => {
            return Err(ApiError::invalid(format!("Unknown file type \"{other}\"; it is file, directory or symlink")));
        }
    };
    let mode = match text(HEADER_WRITE) {
        None | Some("overwrite") => WriteMode::Overwrite,
        Some("append") => WriteMode::Append,
        Some(other) => {
            return Err(ApiError::invalid(format!("Unknown write mode \"{other}\"; it is overwrite or append")));
        }
    };
    let ownership = Ownership {
        uid: number(HEADER_UID, 10, u32::MAX - 1)?,
        gid: number(HEADER_GID, 10, u32::MAX - 1)?,
        mode: number(HEADER_MODE, radix, 0o7777)?,
    };
    Ok(Wanted { kind, mode, ownership })
}

async fn write(
    Target { app, instance, .. }: Target,
    query: Query,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let path = path(&query)?;
    let Wanted { kind, mode, ownership } = wanted(&headers)?;
    let body = request.into_body();
    match kind {
        FileKind::Directory => {
            done(&app, &instance.project, &instance.name, FileRequest::MakeDirectory { path, ownership }).await?;
        }
        FileKind::Symlink => {
            let target = body::read(body, MAX_TARGET).await?;
            let target = String::from_utf8(target.to_vec())
                .map_err(|_| ApiError::invalid("Invalid link: its target is not UTF-8"))?;
            done(&app, &instance.project, &instance.name, FileRequest::Symlink { path, target, ownership }).await?;
        }
        FileKind::File | FileKind::Other => {
            match app
                .instances
                .file(&instance.project, &instance.name, FileRequest::Write { path, mode, ownership })
                .await?
            {
                FileSession::Write(writer) => {
                    let content = StreamReader::new(body.into_data_stream().map_err(io::Error::other));
                    writer.copy_from(content).await?;
                }
                other => return Err(unexpected(&other)),
            }
        }
    }
    happened(&app, "instance-file-pushed", &instance, &caller);
    Ok(envelope::empty())
}

async fn done(app: &App, project: &str, name: &str, request: FileRequest) -> ApiResult<()> {
    match app.instances.file(project, name, request).await? {
        FileSession::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}

async fn delete(Target { app, instance, .. }: Target, query: Query, caller: Caller) -> ApiResult {
    let path = path(&query)?;
    done(&app, &instance.project, &instance.name, FileRequest::Delete { path, recursive: false }).await?;
    happened(&app, "instance-file-deleted", &instance, &caller);
    Ok(envelope::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn headers_are_read() {
        let nothing = wanted(&HeaderMap::new()).unwrap();
        assert_eq!(
            (nothing.kind, nothing.mode, nothing.ownership),
            (FileKind::File, WriteMode::Overwrite, Ownership::default())
        );
        let all = headers(&[
            (HEADER_UID, "1000"),
            (HEADER_GID, "-1"),
            (HEADER_MODE, "0755"),
            (HEADER_TYPE, "directory"),
            (HEADER_WRITE, "append"),
        ]);
        let all = wanted(&all).unwrap();
        assert_eq!((all.kind, all.mode), (FileKind::Directory, WriteMode::Append));
        assert_eq!(all.ownership, Ownership { uid: Some(1000), gid: None, mode: Some(0o755) });
        assert_eq!(wanted(&headers(&[(HEADER_MODE, "420")])).unwrap().ownership.mode, Some(0o644));
        for bad in [
            (HEADER_MODE, "0999"),
            (HEADER_MODE, "010000"),
            (HEADER_UID, "x"),
            (HEADER_TYPE, "pipe"),
            (HEADER_WRITE, "x"),
        ] {
            assert!(wanted(&headers(&[bad])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_in_headers_are_harmless() {
        assert_eq!(base_name("/etc/hosts"), "hosts");
        assert_eq!(base_name("/a/b\"c;d e/"), "b_c_d_e");
        assert_eq!(base_name("/"), "");
    }
}
