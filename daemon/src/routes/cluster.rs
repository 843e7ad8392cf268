//! What a server without a cluster says of it: `/1.0/cluster`.

use axum::{Router, routing::get};
use serde_json::json;

use crate::{
    app::Shared,
    http::{ApiError, ApiResult, envelope, etag},
};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/1.0/cluster", get(show))
        .route("/1.0/cluster/members", get(not_clustered))
        .route("/1.0/cluster/members/{name}", get(not_clustered))
}

async fn show() -> ApiResult {
    let member_config = json!([{
        "entity": "storage-pool",
        "name": "default",
        "key": "source",
        "value": "",
        "description": "\"source\" property for storage pool \"default\"",
    }]);
    let cluster = json!({"server_name": "", "enabled": false, "member_config": member_config});
    Ok(envelope::tagged(&cluster, &etag::of(&cluster)))
}

/// LXD's code and text, which clients know.
async fn not_clustered() -> ApiError {
    ApiError::internal("Server is not clustered")
}
