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
};

pub fn routes() -> Router<Shared> {
    Router::new().route(Gate::READY, get(async || envelope::empty())).route("/internal/shutdown", put(shutdown))
}

async fn shutdown(State(app): State<Shared>, caller: Caller) -> Response {
    tracing::info!(user = %caller.username, "asked to stop");
    app.stop.cancel();
    envelope::empty()
}
