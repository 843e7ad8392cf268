//! `/internal`: for `berthd`'s own subcommands. Readiness is answered at the gate.

use axum::{
    Router,
    extract::State,
    response::Response,
    routing::{get, put},
};

use crate::{
    app::Shared,
    http::{Caller, envelope},
    server::Gate,
    stop::Extent,
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(Gate::READY, get(async || envelope::empty()))
        .route(Extent::Daemon.path(), put(shutdown))
        .route(Extent::Host.path(), put(shutdown_host))
}

async fn shutdown(State(app): State<Shared>, caller: Caller) -> Response {
    tracing::info!(user = %caller.username, "asked to stop");
    app.stop.now(Extent::Daemon);
    envelope::empty()
}

async fn shutdown_host(State(app): State<Shared>, caller: Caller) -> Response {
    tracing::info!(user = %caller.username, "asked to stop with all instances");
    app.stop.now(Extent::Host);
    envelope::empty()
}
