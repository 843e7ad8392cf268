//! `/1.0/resources`.

use axum::{Router, routing::get};

use crate::{
    app::Shared,
    http::{ApiError, ApiResult, envelope},
    resources,
};

pub fn routes() -> Router<Shared> {
    Router::new().route("/1.0/resources", get(show))
}

async fn show() -> ApiResult {
    let resources = tokio::task::spawn_blocking(resources::read).await;
    Ok(envelope::sync(resources.map_err(|error| ApiError::internal(error.to_string()))?))
}
