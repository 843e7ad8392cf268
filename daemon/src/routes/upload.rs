//! Uploads of images and backups: streamed to a private place, never held in memory. If the client vanishes it goes.

use std::{collections::BTreeMap, path::Path, pin::Pin};

use axum::{
    body::Bytes,
    extract::{FromRequest, Multipart, Request},
};
use berth_images::{ImportFiles, ImportOptions, RootfsName, Staging};
use futures::{Stream, StreamExt};
use http::{HeaderMap, StatusCode};
use tokio::{fs::File, io::AsyncWriteExt};

use crate::{
    app::App,
    http::{ApiError, ApiResult, body, query::is_true},
};

/// Longest image that is taken.
const MAX_IMAGE: u64 = 64 * 1024 * 1024 * 1024;

/// A received upload.
pub struct Upload {
    /// The directory that holds it.
    pub staging: Staging,
    /// Its files.
    pub files: ImportFiles,
    /// What the headers say.
    pub options: ImportOptions,
}

/// Receives one file, or a form with `metadata` and `rootfs`.
pub async fn receive(app: &App, request: Request, form: bool) -> ApiResult<Upload> {
    let mut options = options(request.headers())?;
    let staging = app.images.staging()?;
    if !form {
        let metadata = staging.path().join("metadata");
        save(create(&metadata).await?, request.into_body().into_data_stream(), MAX_IMAGE).await?;
        return Ok(Upload { staging, files: ImportFiles { metadata, rootfs: None }, options });
    }
    let bad = |error: axum::extract::multipart::MultipartError| {
        ApiError::invalid(format!("The upload is not a form as it should be: {error}"))
    };
    let mut parts = Multipart::from_request(request, &())
        .await
        .map_err(|error| ApiError::invalid(format!("The upload is not a form as it should be: {error}")))?;
    let mut left = MAX_IMAGE;
    let (mut metadata, mut rootfs) = (None, None);
    while let Some(part) = parts.next_field().await.map_err(bad)? {
        let name = part.name().unwrap_or_default().to_owned();
        let kind = match name.as_str() {
            "metadata" if metadata.is_none() => None,
            "rootfs" if rootfs.is_none() => Some(RootfsName::Rootfs),
            "rootfs.img" if rootfs.is_none() => Some(RootfsName::RootfsImg),
            _ => {
                return Err(ApiError::invalid(format!(
                    "The form has an unexpected part \"{}\"; it has one metadata and one rootfs or rootfs.img",
                    name.escape_debug()
                )));
            }
        };
        if kind.is_none() && options.filename.is_empty() {
            options.filename = file_name(part.file_name().unwrap_or_default());
        }
        let path = staging.path().join(if kind.is_none() { "metadata" } else { "rootfs" });
        left -= save(create(&path).await?, part, left).await?;
        match kind {
            None => metadata = Some(path),
            Some(kind) => rootfs = Some((path, kind)),
        }
    }
    let metadata = metadata.ok_or_else(|| ApiError::invalid("The form has no part \"metadata\""))?;
    Ok(Upload { staging, files: ImportFiles { metadata, rootfs }, options })
}

fn cannot_write(error: std::io::Error) -> ApiError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ApiError::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "The disk is full; free space in the data directory and upload again",
        ),
        _ => ApiError::internal(format!("Cannot write the upload: {error}")),
    }
}

async fn create(path: &Path) -> ApiResult<File> {
    File::create_new(path).await.map_err(cannot_write)
}

/// Writes a stream to an empty file; gives its length.
pub async fn save<E: std::fmt::Display>(
    file: File,
    stream: impl Stream<Item = Result<Bytes, E>>,
    cap: u64,
) -> ApiResult<u64> {
    let mut stream = std::pin::pin!(stream);
    let saved = write(file, stream.as_mut(), cap).await;
    if saved.is_err() {
        body::discard(stream).await;
    }
    saved
}

async fn write<E: std::fmt::Display>(
    mut file: File,
    mut stream: Pin<&mut impl Stream<Item = Result<Bytes, E>>>,
    cap: u64,
) -> ApiResult<u64> {
    let mut length = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| ApiError::invalid(format!("The upload broke off: {error}")))?;
        length += chunk.len() as u64;
        if length > cap {
            return Err(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("The upload is over the limit of {cap} bytes"),
            ));
        }
        file.write_all(&chunk).await.map_err(cannot_write)?;
    }
    file.flush().await.map_err(cannot_write)?;
    if length == 0 {
        return Err(ApiError::invalid("The upload is empty"));
    }
    Ok(length)
}

/// Reads the `X-LXD-*` headers.
fn options(headers: &HeaderMap) -> ApiResult<ImportOptions> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let pairs = |name: &'static str| {
        decoded(text(name)).map_err(|error| ApiError::invalid(format!("Invalid header {name}: {error}")))
    };
    let aliases = pairs("x-lxd-aliases")?.into_iter().map(|(_, name)| (name, String::new())).collect();
    let profiles: Vec<String> = pairs("x-lxd-profiles")?.into_iter().map(|(_, name)| name).collect();
    Ok(ImportOptions {
        public: is_true(text("x-lxd-public")),
        properties: pairs("x-lxd-properties")?.into_iter().collect::<BTreeMap<_, _>>(),
        aliases,
        filename: file_name(text("x-lxd-filename")),
        expected_fingerprint: Some(text("x-lxd-fingerprint").to_owned()).filter(|text| !text.is_empty()),
        profiles,
    })
}

/// `a=b&c=d`, decoded, in its order.
fn decoded(text: &str) -> Result<Vec<(String, String)>, String> {
    let uri: http::Uri = format!("/?{text}").parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let parsed =
        axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri).map_err(|error| error.to_string())?;
    Ok(parsed.0)
}

/// Last part of a name, without what may not stand in a header.
fn file_name(name: &str) -> String {
    let base = name.rsplit('/').next().unwrap_or_default();
    base.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | ';' | '\\')).take(255).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    #[test]
    fn headers_are_read() {
        let mut headers = HeaderMap::new();
        headers.insert("X-LXD-properties", "os=Debian&description=a+b%26c".parse().unwrap());
        headers.insert("X-LXD-public", "1".parse().unwrap());
        headers.insert("X-LXD-filename", "/x/a\"b.tar.xz".parse().unwrap());
        headers.insert("X-LXD-profiles", "profile=default&profile=p".parse().unwrap());
        let options = options(&headers).unwrap();
        assert_eq!(options.properties["description"], "a b&c");
        assert!(options.public);
        assert_eq!(options.filename, "ab.tar.xz");
        assert_eq!(options.profiles, ["default", "p"]);
        assert_eq!(options.expected_fingerprint, None);
    }

    #[tokio::test]
    async fn uploads_have_a_cap_and_a_content() {
        let dir = tempfile::tempdir().unwrap();
        let chunks = |n: usize| stream::iter(vec![Ok::<_, String>(Bytes::from_static(b"12345")); n]);
        assert_eq!(save(create(&dir.path().join("a")).await.unwrap(), chunks(2), 10).await.unwrap(), 10);
        let error = save(create(&dir.path().join("b")).await.unwrap(), chunks(3), 10).await.unwrap_err();
        assert_eq!(error.code(), StatusCode::PAYLOAD_TOO_LARGE);
        assert!(save(create(&dir.path().join("c")).await.unwrap(), chunks(0), 10).await.is_err());
        let broken = stream::iter([Err::<Bytes, _>("gone")]);
        assert!(save(create(&dir.path().join("d")).await.unwrap(), broken, 10).await.is_err());
    }
}
