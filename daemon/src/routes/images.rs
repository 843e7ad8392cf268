//! `/1.0/images`.

use std::path::PathBuf;

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    response::Response,
    routing::{get, post},
};
use berth_api::images::{ImagePut, ImagesPost, ImagesPostSource};
use berth_images::{BuildRequest, ExportFiles, ImageInfo, ImageUpdate};
use berth_instances::{
    Warm,
    projects::{Change, Feature},
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value, json};
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use super::{publish, upload, vm_view, warm};
use crate::{
    access::Access,
    app::{App, Shared},
    convert::{images as convert, patched},
    http::{
        ApiError, ApiResult, Caller, Json, Query, body, envelope, etag,
        query::{render_list, url},
    },
    operations::Spec,
};

/// Where images are.
pub const BASE: &str = "/1.0/images";

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(BASE, get(list).post(create))
        .route("/1.0/images/{fingerprint}", get(show).put(replace).patch(patch).delete(delete))
        .route("/1.0/images/{fingerprint}/export", get(export))
        .route("/1.0/images/{fingerprint}/refresh", post(refresh))
        .route("/1.0/images/{fingerprint}/warm", get(warm::list).post(warm::make).delete(warm::remove))
}

/// Fails as if there were no such image if the caller may only see public ones and this is none.
fn visible(image: &ImageInfo, access: &Access) -> ApiResult<()> {
    if access.is_trusted() || image.public {
        return Ok(());
    }
    Err(ApiError::not_found(format!("Image \"{}\" not found", image.fingerprint)))
}

async fn list(State(app): State<Shared>, access: Access, query: Query) -> ApiResult {
    let Some(owner) = app.list_owner(query.project(), Feature::Images).await? else {
        return Ok(envelope::sync(json!([])));
    };
    let images = app.images.list(&owner).await?;
    let visible = images.iter().filter(|image| access.is_trusted() || image.public);
    let items = visible.map(|image| (url(BASE, &image.fingerprint, &owner), json!(convert::image(image))));
    Ok(envelope::sync(render_list(&query, items.collect())?))
}

/// An upload, or JSON that says where the image comes from.
async fn create(
    State(app): State<Shared>,
    access: Access,
    query: Query,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    if body::is_json(&headers) {
        let post: ImagesPost = body::parse(&body::read(request.into_body(), body::MAX_JSON).await?)?;
        // It runs programs of packages, from a mirror of the client's choice.
        if !access.is_full() && post.source.as_ref().is_some_and(|source| source.kind == "build") {
            return Err(ApiError::forbidden("not authorized: a restricted certificate cannot build images"));
        }
        return from_source(app, owner, query.project(), &caller, post);
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let upload = upload::receive(&app, request, kind.starts_with("multipart/form-data")).await?;
    let spec = Spec::new("Importing image", Some(&owner), &caller);
    app.clone().operations.accept(spec, |context| async move {
        let progress = convert::progress(context, "import_progress");
        let admission = app.instances.projects().admission(&owner, Change::Image);
        let (staging, files, options) = (upload.staging, upload.files, upload.options);
        let image = app.images.import(&owner, staging, files, options, &admission, &progress).await?;
        app.happened("image-created", &url(BASE, &image.fingerprint, &owner), Some(&owner), &caller);
        Ok(result(&image))
    })
}

/// What an operation that made an image tells of it.
pub fn result(image: &ImageInfo) -> Map<String, Value> {
    Map::from_iter([
        ("fingerprint".to_owned(), Value::String(image.fingerprint.clone())),
        ("size".to_owned(), Value::String(image.size.to_string())),
    ])
}

fn from_source(app: Shared, owner: String, project: &str, caller: &Caller, mut post: ImagesPost) -> ApiResult {
    let source = post
        .source
        .take()
        .ok_or_else(|| ApiError::invalid("No source given: \"source\" tells where the image comes from"))?;
    match source.kind.as_str() {
        "build" => {}
        "instance" | "container" | "virtual-machine" | "snapshot" => {
            return publish::publish(app, owner, project, caller, post, source);
        }
        "image" | "url" => {
            let place = if source.kind == "url" { &source.url } else { &source.server };
            return Err(ApiError::invalid(format!(
                "Downloading an image from \"{place}\" is not supported yet; import its files or build one"
            )));
        }
        other => return Err(ApiError::invalid(format!("Unknown image source type \"{other}\""))),
    }
    let request =
        build_request(post.aliases.into_iter().map(|a| (a.name, a.description)).collect(), post.public, source)?;
    let caller = caller.clone();
    let spec = Spec::new("Building image", Some(&owner), &caller);
    app.clone().operations.accept(spec, |context| async move {
        let progress = convert::progress(context, "build_progress");
        let admission = app.instances.projects().admission(&owner, Change::Image);
        let image = app.images.build(&owner, request, &admission, &progress).await?;
        app.happened("image-created", &url(BASE, &image.fingerprint, &owner), Some(&owner), &caller);
        Ok(result(&image))
    })
}

fn build_request(aliases: Vec<(String, String)>, public: bool, source: ImagesPostSource) -> ApiResult<BuildRequest> {
    if source.distribution.is_empty() {
        return Err(ApiError::invalid("No distribution given: \"source.distribution\" is for example debian/12"));
    }
    Ok(BuildRequest {
        distribution: source.distribution,
        packages: source.packages,
        mirror: Some(source.mirror).filter(|mirror| !mirror.is_empty()),
        aliases,
        public,
    })
}

async fn show(State(app): State<Shared>, access: Access, query: Query, Path(fingerprint): Path<String>) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    let image = vm_view::image(&app, &owner, &fingerprint).await?;
    visible(&image, &access)?;
    Ok(envelope::tagged(convert::image(&image), &etag::of(&convert::put(&image))))
}

async fn write(app: &App, owner: &str, image: &ImageInfo, put: ImagePut, caller: &Caller) -> ApiResult {
    let change = ImageUpdate {
        auto_update: Some(put.auto_update),
        public: Some(put.public),
        properties: Some(put.properties),
        profiles: Some(put.profiles),
        expires_at: Some(if put.expires_at.is_never() { 0 } else { put.expires_at.0.as_second() }),
    };
    app.images.update(owner, &image.fingerprint, change, Some(image.revision)).await?;
    app.happened("image-updated", &url(BASE, &image.fingerprint, owner), Some(owner), caller);
    Ok(envelope::empty())
}

async fn replace(
    State(app): State<Shared>,
    query: Query,
    Path(fingerprint): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<ImagePut>,
) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    let image = app.images.get(&owner, &fingerprint).await?;
    etag::check(&headers, &etag::of(&convert::put(&image)))?;
    write(&app, &owner, &image, put, &caller).await
}

async fn patch(
    State(app): State<Shared>,
    query: Query,
    Path(fingerprint): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    let owner = app.owner(query.project(), Feature::Images).await?;
    let image = app.images.get(&owner, &fingerprint).await?;
    let current = convert::put(&image);
    etag::check(&headers, &etag::of(&current))?;
    write(&app, &owner, &image, patched(&current, &bytes)?, &caller).await
}

async fn delete(State(app): State<Shared>, query: Query, Path(fingerprint): Path<String>, caller: Caller) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    let image = app.images.get(&owner, &fingerprint).await?;
    let location = url(BASE, &image.fingerprint, &owner);
    let spec = Spec::new("Deleting image", Some(&owner), &caller).resource("images", location.clone());
    app.clone().operations.accept(spec, |_| async move {
        app.images.delete(&owner, &image.fingerprint).await?;
        app.instances.cool_down(Warm::Image(&image.fingerprint)).await?;
        app.happened("image-deleted", &location, Some(&owner), &caller);
        Ok(())
    })
}

/// Images have no source to be refreshed from yet: the operation tells that nothing changed.
async fn refresh(
    State(app): State<Shared>,
    query: Query,
    Path(fingerprint): Path<String>,
    caller: Caller,
) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    let image = app.images.get(&owner, &fingerprint).await?;
    let spec =
        Spec::new("Refreshing image", Some(&owner), &caller).resource("images", url(BASE, &image.fingerprint, &owner));
    app.clone()
        .operations
        .accept(spec, |_| async { Ok(Map::from_iter([("refreshed".to_owned(), Value::Bool(false))])) })
}

/// One file as it is, two as a form.
async fn export(State(app): State<Shared>, access: Access, query: Query, Path(fingerprint): Path<String>) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Images).await?;
    visible(&app.images.get(&owner, &fingerprint).await?, &access)?;
    let ExportFiles { metadata, rootfs, rootfs_name } = app.images.export(&owner, &fingerprint).await?;
    let Some(rootfs) = rootfs else {
        let (name, path) = metadata;
        let file = open(&path).await?;
        let length = file.metadata().await?.len();
        return Ok(envelope::raw(Body::from_stream(ReaderStream::new(file)), Some(length), &name));
    };
    form(vec![("metadata", metadata), (rootfs_name.as_str(), rootfs)]).await
}

async fn open(path: &PathBuf) -> ApiResult<File> {
    File::open(path).await.map_err(|error| ApiError::internal(format!("Cannot read the image: {error}")))
}

/// `multipart/form-data` with the files as they are; its length is known beforehand.
async fn form(files: Vec<(&'static str, (String, PathBuf))>) -> ApiResult<Response> {
    let boundary = crate::operations::secret();
    let mut length = 0;
    let mut parts: Vec<futures::stream::BoxStream<'static, std::io::Result<Bytes>>> = Vec::new();
    for (field, (name, path)) in files {
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let file = open(&path).await?;
        let size = file.metadata().await?.len();
        length += head.len() as u64 + size + 2;
        parts.push(text(head).boxed());
        parts.push(ReaderStream::new(tokio::io::AsyncReadExt::take(file, size)).boxed());
        parts.push(text("\r\n".to_owned()).boxed());
    }
    let tail = format!("--{boundary}--\r\n");
    length += tail.len() as u64;
    parts.push(text(tail).boxed());
    let body = Body::from_stream(stream::iter(parts).flatten().into_stream());
    let mut response = Response::new(body);
    let kind = format!("multipart/form-data; boundary={boundary}");
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_str(&kind).unwrap_or(HeaderValue::from_static("multipart/form-data")),
    );
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}

fn text(text: String) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::once(std::future::ready(Ok(Bytes::from(text))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_form_is_as_long_as_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.tar");
        std::fs::write(&path, "content").unwrap();
        let files =
            vec![("metadata", ("meta.tar".to_owned(), path.clone())), ("rootfs", ("r.squashfs".to_owned(), path))];
        let response = form(files).await.unwrap();
        let length: u64 = response.headers()[header::CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len() as u64, length);
        assert!(String::from_utf8_lossy(&body).contains("name=\"rootfs\"; filename=\"r.squashfs\"\r\n"));
    }
}
