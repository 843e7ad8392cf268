//! What this version knows of an instance's image metadata.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use berth_api::instances::InstanceMetadata;
use serde_json::json;

use super::Prefix;
use crate::{
    app::Shared,
    http::{ApiResult, Query, envelope, etag},
};

pub fn routes(base: &str) -> Router<Shared> {
    Router::new()
        .route(&format!("{base}/{{name}}/metadata"), get(metadata))
        .route(&format!("{base}/{{name}}/metadata/templates"), get(none))
}

async fn none(State(app): State<Shared>, prefix: Prefix, query: Query, Path(name): Path<String>) -> ApiResult {
    prefix.find(&app, query.project(), &name)?;
    Ok(envelope::sync(json!([])))
}

/// What is known of the image that the instance was made from.
async fn metadata(State(app): State<Shared>, prefix: Prefix, query: Query, Path(name): Path<String>) -> ApiResult {
    let instance = prefix.find(&app, query.project(), &name)?;
    let properties = instance.config.iter().filter_map(|(key, value)| Some((key.strip_prefix("image.")?, value)));
    let metadata = InstanceMetadata {
        architecture: instance.architecture.clone(),
        creation_date: instance.created_at.as_second(),
        properties: properties.map(|(key, value)| (key.to_owned(), value.clone())).collect(),
        ..InstanceMetadata::default()
    };
    let tag = etag::of(&metadata);
    Ok(envelope::tagged(metadata, &tag))
}
