//! The table of routes. One file an object; each adds its own paths.

mod aliases;
mod certificates;
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
mod warm;
mod warnings;

use axum::{Router, response::Response, routing::get};
use http::StatusCode;

use crate::{
    access,
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
        .merge(certificates::routes())
        .merge(cluster::routes())
        .merge(warnings::routes())
        .merge(internal::routes())
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        // Handlers have their own caps.
        .layer(axum::extract::DefaultBodyLimit::disable())
        // Before all else, for what is unknown as well.
        .layer(axum::middleware::from_fn_with_state(app.clone(), access::guard))
        .with_state(app)
}

async fn unknown_path(uri: http::Uri) -> ApiError {
    ApiError::not_found(format!("Not found: there is no path {}", uri.path()))
}

async fn unknown_method(method: http::Method, uri: http::Uri) -> Response {
    envelope::error(StatusCode::NOT_IMPLEMENTED, &format!("Not implemented: {method} on {}", uri.path()))
}
