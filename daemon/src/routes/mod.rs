//! The table of routes. One file an object; each adds its own paths.

mod aliases;
mod cluster;
mod events;
mod images;
mod instances;
mod internal;
mod metrics;
mod networks;
mod operations;
mod profiles;
mod projects;
mod publish;
mod resources;
mod server;
mod storage;
mod upload;
mod vm_view;
mod warnings;

use axum::{Router, response::Response, routing::get};
use http::StatusCode;

use crate::{
    app::Shared,
    http::{ApiError, envelope},
};

/// All routes.
pub fn router(app: Shared) -> Router {
    Router::new()
        .route("/", get(async || envelope::sync(["/1.0"])))
        .merge(server::routes())
        .merge(resources::routes())
        .merge(metrics::routes())
        .merge(events::routes())
        .merge(operations::routes())
        .merge(instances::routes())
        .merge(images::routes())
        .merge(aliases::routes())
        .merge(profiles::routes())
        .merge(projects::routes())
        .merge(networks::routes())
        .merge(storage::routes())
        .merge(cluster::routes())
        .merge(warnings::routes())
        .merge(internal::routes())
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        // Handlers have their own caps.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(app)
}

async fn unknown_path(uri: http::Uri) -> ApiError {
    ApiError::not_found(format!("Not found: there is no path {}", uri.path()))
}

async fn unknown_method(method: http::Method, uri: http::Uri) -> Response {
    envelope::error(StatusCode::NOT_IMPLEMENTED, &format!("Not implemented: {method} on {}", uri.path()))
}
