//! The guard before all handlers.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequestParts, MatchedPath, Path, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use berth_instances::projects::Feature;
use http::{Method, header, request::Parts};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    Access, cors, private, refused,
    rules::{self, Confined, Rule},
};
use crate::{
    app::{App, Shared},
    http::{ApiError, ApiResult, Peer, Query, Scope, body},
};

/// Longest body of a stranger, who sends a certificate at most.
const MAX_UNTRUSTED_BODY: usize = 128 * 1024;
/// How long a stranger may take to send it.
const UNTRUSTED_BODY: Duration = Duration::from_secs(10);
/// The one path of listeners for figures.
const METRICS: &str = "/1.0/metrics";

/// Lets a request through to its handler, or refuses it.
pub async fn guard(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = if request.method() == Method::OPTIONS {
        Response::new(Body::empty())
    } else {
        answer(&app, request, next).await.unwrap_or_else(IntoResponse::into_response)
    };
    cors::add(&app.settings, origin.as_ref(), response.headers_mut());
    response
}

async fn answer(app: &App, request: Request, next: Next) -> ApiResult<Response> {
    let peer = request.extensions().get::<Peer>().ok_or_else(refused)?;
    let access = Access::of(peer, &app.trust);
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    if path.starts_with("/internal") && !matches!(peer, Peer::Local) {
        return Err(refused());
    }
    let only_metrics = matches!(peer, Peer::Network { scope: Scope::Metrics, .. });
    if only_metrics && path != METRICS {
        return Err(ApiError::not_found(format!("Not found: this address serves {METRICS} only")));
    }
    let mut request = match &access {
        Access::Full => request,
        Access::Restricted(_) => restricted(app, &access, &path, request).await?,
        Access::Metrics | Access::Untrusted => stranger(app, &access, &path, request).await?,
    };
    request.extensions_mut().insert(access.clone());
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    let response = next.run(request).await;
    let shows_users = ["/1.0/storage-pools", "/1.0/networks", "/1.0/profiles", "/1.0/projects"];
    if read && !access.is_full() && shows_users.iter().any(|place| path.starts_with(place)) {
        return private::without_foreign_users(response, &access).await;
    }
    Ok(response)
}

async fn stranger(app: &App, access: &Access, path: &str, request: Request) -> ApiResult<Request> {
    let rule = rules::rule(request.method(), path);
    let open = rule.is_some_and(|rule| rule.untrusted);
    let figures = path == METRICS
        && request.method() == Method::GET
        && (*access == Access::Metrics || !app.settings.flag("core.metrics_authentication", true));
    if !open && !figures {
        return Err(refused());
    }
    let (parts, body) = request.into_parts();
    let bytes = timeout(UNTRUSTED_BODY, body::read(body, MAX_UNTRUSTED_BODY)).await;
    let bytes = bytes.map_err(|_| ApiError::invalid("The request body took too long"))??;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

async fn restricted(app: &App, access: &Access, path: &str, request: Request) -> ApiResult<Request> {
    let Some(Rule { restricted: Some(confined), .. }) = rules::rule(request.method(), path) else {
        return Err(refused());
    };
    let (mut parts, body) = request.into_parts();
    let form = match confined {
        Confined::Anywhere => return Ok(Request::from_parts(parts, body)),
        Confined::Named => {
            let Path(name) = Path::<String>::from_request_parts(&mut parts, &()).await.map_err(|_| refused())?;
            allow(access, &name)?;
            return Ok(Request::from_parts(parts, body));
        }
        Confined::Operation => {
            operation(app, access, &mut parts).await?;
            return Ok(Request::from_parts(parts, body));
        }
        Confined::Project(form) => {
            project(app, access, None, &mut parts).await?;
            form
        }
        Confined::Owner(feature, form) => {
            project(app, access, Some(feature), &mut parts).await?;
            form
        }
    };
    let may_name_projects = match form {
        rules::Body::Json => !matches!(parts.method, Method::GET | Method::HEAD),
        rules::Body::Image => body::is_json(&parts.headers),
        rules::Body::Instance => !body::is_archive(&parts.headers),
        rules::Body::Content => false,
    };
    if !may_name_projects {
        return Ok(Request::from_parts(parts, body));
    }
    let bytes = body::read(body, body::MAX_JSON).await?;
    // What is no JSON is for the handler to refuse.
    if let Ok(value) = serde_json::from_slice::<Value>(&bytes) {
        named_projects(&value, access)?;
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

fn allow(access: &Access, project: &str) -> ApiResult<()> {
    access.has_project(project).then_some(()).ok_or_else(refused)
}

/// The project of the query, and for a change the one that holds such objects.
async fn project(app: &App, access: &Access, holds: Option<Feature>, parts: &mut Parts) -> ApiResult<()> {
    let query = Query::from_request_parts(parts, &()).await?;
    if query.flag("all-projects") {
        return Err(ApiError::forbidden(
            "not authorized: a restricted certificate sees one project at a time; name it with --project",
        ));
    }
    allow(access, query.project())?;
    if let Some(feature) = holds
        && !matches!(parts.method, Method::GET | Method::HEAD)
    {
        allow(access, &app.owner(query.project(), feature).await?)?;
    }
    Ok(())
}

async fn operation(app: &App, access: &Access, parts: &mut Parts) -> ApiResult<()> {
    let Path(id) = Path::<String>::from_request_parts(parts, &()).await.map_err(|_| refused())?;
    let operation = app.operations.get(&id)?;
    allow(access, operation.project().ok_or_else(refused)?)
}

/// Every project that a body names, wherever it does.
fn named_projects(value: &Value, access: &Access) -> ApiResult<()> {
    match value {
        Value::Object(members) => members.iter().try_for_each(|(name, member)| match member {
            Value::String(project) if name == "project" && !project.is_empty() => allow(access, project),
            member => named_projects(member, access),
        }),
        Value::Array(items) => items.iter().try_for_each(|item| named_projects(item, access)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn a_body_names_no_other_project() {
        let access = Access::Restricted(Arc::new(["p".to_owned()].into()));
        let named = |value: Value| named_projects(&value, &access).is_ok();
        assert!(named(json!({"name": "c1", "source": {"type": "copy", "project": "p"}, "project": ""})));
        assert!(!named(json!({"source": {"project": "default"}})));
        assert!(!named(json!({"project": "q"})));
        assert!(!named(json!([[{"x": {"project": "q"}}]])));
        assert!(named(json!({"devices": {"project": {"type": "none"}}})));
    }
}
