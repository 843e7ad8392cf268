//! `metadata` and `metadata/templates`: what an instance keeps of the image it was made from.

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    routing::get,
};
use berth_api::instances::{InstanceMetadata, InstanceMetadataTemplate};
use berth_images::{
    Origin,
    metadata::{Metadata, Template},
};
use berth_instances::Instance;
use http::HeaderMap;

use super::Prefix;
use crate::{
    app::{App, Shared},
    convert::patched,
    http::{ApiError, ApiResult, Caller, Json, Query, body, envelope, etag, query::url},
};

/// Longest body of a template; the images crate has the last word.
const MAX_TEMPLATE: usize = 1 << 20;

pub fn routes(base: &str) -> Router<Shared> {
    Router::new().route(&format!("{base}/{{name}}/metadata"), get(show).put(replace).patch(patch)).route(
        &format!("{base}/{{name}}/metadata/templates"),
        get(templates).post(write_template).delete(delete_template),
    )
}

fn shown(metadata: Metadata) -> InstanceMetadata {
    let template = |t: Template| InstanceMetadataTemplate {
        when: t.when,
        create_only: t.create_only,
        template: t.template,
        properties: t.properties,
    };
    InstanceMetadata {
        architecture: metadata.architecture,
        creation_date: metadata.creation_date,
        expiry_date: metadata.expiry_date,
        properties: metadata.properties,
        templates: metadata.templates.into_iter().map(|(path, t)| (path, template(t))).collect(),
    }
}

fn kept(metadata: InstanceMetadata) -> Metadata {
    let template = |t: InstanceMetadataTemplate| Template {
        when: t.when,
        create_only: t.create_only,
        template: t.template,
        properties: t.properties,
    };
    Metadata {
        architecture: metadata.architecture,
        creation_date: metadata.creation_date,
        expiry_date: metadata.expiry_date,
        properties: metadata.properties,
        templates: metadata.templates.into_iter().map(|(path, t)| (path, template(t))).collect(),
    }
}

/// What the image said, or, of an instance that keeps nothing of one, what its configuration tells.
fn current(origin: &Origin, instance: &Instance) -> ApiResult<InstanceMetadata> {
    if let Some(metadata) = origin.metadata()? {
        return Ok(shown(metadata));
    }
    let properties = instance.config.iter().filter_map(|(key, value)| Some((key.strip_prefix("image.")?, value)));
    Ok(InstanceMetadata {
        architecture: instance.architecture.clone(),
        creation_date: instance.created_at.as_second(),
        properties: properties.map(|(key, value)| (key.to_owned(), value.clone())).collect(),
        ..InstanceMetadata::default()
    })
}

async fn show(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
) -> ApiResult {
    let project = query.project();
    let instance = prefix.find(&app, project, &name)?;
    let metadata = app.instances.with_origin(project, &name, move |origin| current(origin, &instance)).await??;
    happened(&app, "instance-metadata-retrieved", &name, project, &caller);
    let tag = etag::of(&metadata);
    Ok(envelope::tagged(metadata, &tag))
}

async fn replace(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<InstanceMetadata>,
) -> ApiResult {
    let project = query.project();
    let instance = prefix.find(&app, project, &name)?;
    let write = move |origin: &Origin| -> ApiResult<()> {
        // What cannot be read any more can be replaced.
        if headers.contains_key(http::header::IF_MATCH) {
            etag::check(&headers, &etag::of(&current(origin, &instance)?))?;
        }
        Ok(origin.set_metadata(&kept(put))?)
    };
    app.instances.with_origin(project, &name, write).await??;
    happened(&app, "instance-metadata-updated", &name, project, &caller);
    Ok(envelope::empty())
}

async fn patch(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    let project = query.project();
    let instance = prefix.find(&app, project, &name)?;
    let write = move |origin: &Origin| -> ApiResult<()> {
        let current = current(origin, &instance)?;
        etag::check(&headers, &etag::of(&current))?;
        Ok(origin.set_metadata(&kept(patched(&current, &bytes)?))?)
    };
    app.instances.with_origin(project, &name, write).await??;
    happened(&app, "instance-metadata-updated", &name, project, &caller);
    Ok(envelope::empty())
}

/// The names of all templates, or with `path` the content of one.
async fn templates(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
) -> ApiResult {
    let project = query.project();
    prefix.find(&app, project, &name)?;
    let Some(template) = query.get("path").map(str::to_owned) else {
        return Ok(envelope::sync(app.instances.with_origin(project, &name, Origin::templates).await??));
    };
    let content = app.instances.with_origin(project, &name, move |origin| origin.template(&template)).await??;
    happened(&app, "instance-metadata-template-retrieved", &name, project, &caller);
    let length = content.len() as u64;
    Ok(envelope::raw(Body::from(content), Some(length), "template"))
}

/// The template that a request is about.
fn named(query: &Query) -> ApiResult<String> {
    let name = query.get("path").filter(|name| !name.is_empty()).map(str::to_owned);
    name.ok_or_else(|| ApiError::invalid("No template given: the parameter \"path\" names it"))
}

async fn write_template(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    request: axum::extract::Request,
) -> ApiResult {
    let template = named(&query)?;
    let project = query.project();
    prefix.find(&app, project, &name)?;
    let content = body::read(request.into_body(), MAX_TEMPLATE).await?;
    app.instances.with_origin(project, &name, move |origin| origin.set_template(&template, &content)).await??;
    happened(&app, "instance-metadata-template-created", &name, project, &caller);
    Ok(envelope::empty())
}

async fn delete_template(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
) -> ApiResult {
    let template = named(&query)?;
    let project = query.project();
    prefix.find(&app, project, &name)?;
    app.instances.with_origin(project, &name, move |origin| origin.remove_template(&template)).await??;
    happened(&app, "instance-metadata-template-deleted", &name, project, &caller);
    Ok(envelope::empty())
}

fn happened(app: &App, action: &'static str, name: &str, project: &str, caller: &Caller) {
    app.happened(action, &url("/1.0/instances", name, project), Some(project), caller);
}
