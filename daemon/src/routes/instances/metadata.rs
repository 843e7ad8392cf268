//! `metadata` and `metadata/templates`: what an instance keeps of the image it was made from.

use std::sync::Arc;

use axum::{Router, body::Body, routing::get};
use berth_api::instances::{InstanceMetadata, InstanceMetadataTemplate};
use berth_images::{
    Origin,
    metadata::{Metadata, Template},
};
use berth_instances::Instance;
use http::HeaderMap;

use super::{Target, happened};
use crate::{
    app::{App, Shared},
    convert::patched,
    http::{ApiError, ApiResult, Caller, Json, Query, body, envelope, etag},
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

/// Does `work` with what the instance keeps of its image.
async fn at_origin<T: Send + 'static>(
    app: &App,
    instance: &Arc<Instance>,
    work: impl FnOnce(&Origin, &Instance) -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    let seen = instance.clone();
    app.instances.with_origin(&instance.project, &instance.name, move |origin| work(origin, &seen)).await?
}

async fn show(Target { app, instance, .. }: Target, caller: Caller) -> ApiResult {
    let metadata = at_origin(&app, &instance, current).await?;
    happened(&app, "instance-metadata-retrieved", &instance, &caller);
    let tag = etag::of(&metadata);
    Ok(envelope::tagged(metadata, &tag))
}

async fn replace(
    Target { app, instance, .. }: Target,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<InstanceMetadata>,
) -> ApiResult {
    at_origin(&app, &instance, move |origin, instance| {
        // What cannot be read any more can be replaced.
        if headers.contains_key(http::header::IF_MATCH) {
            etag::check(&headers, &etag::of(&current(origin, instance)?))?;
        }
        Ok(origin.set_metadata(&kept(put))?)
    })
    .await?;
    happened(&app, "instance-metadata-updated", &instance, &caller);
    Ok(envelope::empty())
}

async fn patch(
    Target { app, instance, .. }: Target,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    at_origin(&app, &instance, move |origin, instance| {
        let current = current(origin, instance)?;
        etag::check(&headers, &etag::of(&current))?;
        Ok(origin.set_metadata(&kept(patched(&current, &bytes)?))?)
    })
    .await?;
    happened(&app, "instance-metadata-updated", &instance, &caller);
    Ok(envelope::empty())
}

/// The names of all templates, or with `path` the content of one.
async fn templates(Target { app, instance, .. }: Target, query: Query, caller: Caller) -> ApiResult {
    let Some(template) = query.get("path").map(str::to_owned) else {
        return Ok(envelope::sync(at_origin(&app, &instance, |origin, _| Ok(origin.templates()?)).await?));
    };
    let content = at_origin(&app, &instance, move |origin, _| Ok(origin.template(&template)?)).await?;
    happened(&app, "instance-metadata-template-retrieved", &instance, &caller);
    let length = content.len() as u64;
    Ok(envelope::raw(Body::from(content), Some(length), "template"))
}

/// The template that a request is about.
fn named(query: &Query) -> ApiResult<String> {
    let name = query.get("path").filter(|name| !name.is_empty()).map(str::to_owned);
    name.ok_or_else(|| ApiError::invalid("No template given: the parameter \"path\" names it"))
}

async fn write_template(
    Target { app, instance, .. }: Target,
    query: Query,
    caller: Caller,
    request: axum::extract::Request,
) -> ApiResult {
    let template = named(&query)?;
    let content = body::read(request.into_body(), MAX_TEMPLATE).await?;
    at_origin(&app, &instance, move |origin, _| Ok(origin.set_template(&template, &content)?)).await?;
    happened(&app, "instance-metadata-template-created", &instance, &caller);
    Ok(envelope::empty())
}

async fn delete_template(Target { app, instance, .. }: Target, query: Query, caller: Caller) -> ApiResult {
    let template = named(&query)?;
    at_origin(&app, &instance, move |origin, _| Ok(origin.remove_template(&template)?)).await?;
    happened(&app, "instance-metadata-template-deleted", &instance, &caller);
    Ok(envelope::empty())
}
