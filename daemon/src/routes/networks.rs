//! `/1.0/networks`.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use berth_api::networks::{NetworkPost, NetworkPut, NetworksPost};
use berth_instances::projects::{Change, Feature};
use berth_network::Network;
use http::HeaderMap;
use serde_json::json;

use crate::{
    app::{App, Shared},
    convert::{networks as convert, patched, used_by::Users},
    http::{
        ApiError, ApiResult, Caller, Json, Query, body, envelope, etag,
        query::{render_list, url},
    },
};

const BASE: &str = "/1.0/networks";

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(BASE, get(list).post(create))
        .route("/1.0/networks/{name}", get(show).put(replace).patch(patch).post(rename).delete(delete))
        .route("/1.0/networks/{name}/state", get(state))
        .route("/1.0/networks/{name}/leases", get(leases))
}

fn used_by(users: &Users, owner: &str, network: &Network) -> Vec<String> {
    users.of_network(network.managed.then_some(owner), &network.name)
}

async fn list(State(app): State<Shared>, query: Query) -> ApiResult {
    let Some(owner) = app.list_owner(query.project(), Feature::Networks).await? else {
        return Ok(envelope::sync(json!([])));
    };
    let users = Users::read(&app).await?;
    let networks = app.networks.list(&owner).await?;
    let items = networks.iter().map(|network| {
        let wire = convert::network(network, used_by(&users, &owner, network));
        (url(BASE, &network.name, &owner), json!(wire))
    });
    Ok(envelope::sync(render_list(&query, items.collect())?))
}

async fn create(State(app): State<Shared>, query: Query, caller: Caller, Json(post): Json<NetworksPost>) -> ApiResult {
    if !matches!(post.kind.as_str(), "" | "bridge") {
        return Err(ApiError::invalid(format!(
            "Network type \"{}\" is not supported yet; this version makes bridges (type \"bridge\")",
            post.kind
        )));
    }
    let owner = app.owner(query.project(), Feature::Networks).await?;
    let admission = app.instances.projects().admission(&owner, Change::Network);
    app.networks.create(&owner, &post.name, &post.description, post.config, &admission).await?;
    let location = url(BASE, &post.name, &owner);
    app.happened("network-created", &location, Some(&owner), &caller);
    Ok(envelope::created(&location))
}

async fn show(State(app): State<Shared>, query: Query, Path(name): Path<String>) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Networks).await?;
    let network = app.networks.get(&owner, &name).await?;
    let users = Users::read(&app).await?;
    let wire = convert::network(&network, used_by(&users, &owner, &network));
    Ok(envelope::tagged(wire, &etag::of(&convert::put(&network))))
}

/// A network that can be changed, after the client's tag was checked, and the project that holds it.
async fn managed(app: &App, query: &Query, name: &str, headers: &HeaderMap) -> ApiResult<(String, Network)> {
    let owner = app.owner(query.project(), Feature::Networks).await?;
    let network = app.networks.get(&owner, name).await?;
    if !network.managed {
        return Err(ApiError::invalid(format!(
            "Network \"{name}\" is a link of the host; only managed networks can be changed"
        )));
    }
    etag::check(headers, &etag::of(&convert::put(&network)))?;
    Ok((owner, network))
}

async fn write(app: &App, owner: &str, network: &Network, put: NetworkPut, caller: &Caller) -> ApiResult {
    let name = &network.name;
    app.networks.update(owner, name, &put.description, put.config, Some(network.mod_rev)).await?;
    app.happened("network-updated", &url(BASE, name, owner), Some(owner), caller);
    Ok(envelope::empty())
}

async fn replace(
    State(app): State<Shared>,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<NetworkPut>,
) -> ApiResult {
    let (owner, network) = managed(&app, &query, &name, &headers).await?;
    write(&app, &owner, &network, put, &caller).await
}

async fn patch(
    State(app): State<Shared>,
    query: Query,
    Path(name): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    let (owner, network) = managed(&app, &query, &name, &headers).await?;
    let put = patched(&convert::put(&network), &bytes)?;
    write(&app, &owner, &network, put, &caller).await
}

async fn rename(
    State(app): State<Shared>,
    query: Query,
    Path(name): Path<String>,
    Json(post): Json<NetworkPost>,
) -> ApiResult {
    managed(&app, &query, &name, &HeaderMap::new()).await?;
    Err(ApiError::invalid(format!(
        "Network \"{name}\" cannot be renamed to \"{}\": this version does not support it; create another network instead",
        post.name
    )))
}

async fn delete(State(app): State<Shared>, query: Query, Path(name): Path<String>, caller: Caller) -> ApiResult {
    let (owner, network) = managed(&app, &query, &name, &HeaderMap::new()).await?;
    if let Some(user) = used_by(&Users::read(&app).await?, &owner, &network).first() {
        return Err(ApiError::invalid(format!(
            "The network \"{name}\" is currently in use by {user}; remove it there first"
        )));
    }
    app.networks.delete(&owner, &name).await?;
    app.happened("network-deleted", &url(BASE, &name, &owner), Some(&owner), &caller);
    Ok(envelope::empty())
}

async fn state(State(app): State<Shared>, query: Query, Path(name): Path<String>) -> ApiResult {
    let owner = app.owner(query.project(), Feature::Networks).await?;
    app.networks.get(&owner, &name).await?;
    Ok(envelope::sync(convert::state(&app.networks.state(&name).await?)))
}

async fn leases(State(app): State<Shared>, query: Query, Path(name): Path<String>) -> ApiResult {
    managed(&app, &query, &name, &HeaderMap::new()).await?;
    let leases = app.networks.leases(&name).await?;
    Ok(envelope::sync(leases.iter().map(convert::lease).collect::<Vec<_>>()))
}
