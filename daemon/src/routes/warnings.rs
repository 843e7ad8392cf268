//! `/1.0/warnings`: what the crates below say falls short now.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use berth_api::{Time, warnings::Warning};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    app::{App, Shared},
    http::{
        ApiError, ApiResult, Query, envelope,
        query::{DEFAULT_PROJECT, render_list, url},
    },
};

const BASE: &str = "/1.0/warnings";

pub fn routes() -> Router<Shared> {
    Router::new().route(BASE, get(list)).route("/1.0/warnings/{uuid}", get(show))
}

/// A warning stands as long as its cause does; the same one keeps its id.
fn current(app: &App) -> Vec<Warning> {
    let wire = |warning: berth_network::Warning| Warning {
        uuid: id(&["network", &warning.network, &warning.text]).to_string(),
        location: "none".to_owned(),
        project: DEFAULT_PROJECT.to_owned(),
        kind: "Network unavailable".to_owned(),
        count: 1,
        first_seen_at: Time::now(),
        last_seen_at: Time::now(),
        last_message: warning.text,
        severity: "moderate".to_owned(),
        status: "new".to_owned(),
        entity_url: url("/1.0/networks", &warning.network, DEFAULT_PROJECT),
    };
    app.networks.warnings().into_iter().map(wire).collect()
}

fn id(parts: &[&str]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

async fn list(State(app): State<Shared>, query: Query) -> ApiResult {
    let items = current(&app).into_iter().map(|warning| (format!("{BASE}/{}", warning.uuid), json!(warning)));
    Ok(envelope::sync(render_list(&query, items.collect())?))
}

async fn show(State(app): State<Shared>, Path(uuid): Path<String>) -> ApiResult {
    let found = current(&app).into_iter().find(|warning| warning.uuid == uuid);
    found.map(envelope::sync).ok_or_else(|| ApiError::not_found(format!("Warning \"{uuid}\" not found")))
}
