//! `/1.0/certificates`: whom the server trusts.

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};
use berth_api::certificates::{Certificate, CertificatePut, CertificatesPost};
use berth_instances::projects::Feature;
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::json;

use crate::{
    access::Access,
    app::{App, Shared},
    convert::patched,
    http::{
        ApiError, ApiResult, Caller, Json, Peer, Query, body, envelope, etag,
        query::{DEFAULT_PROJECT, render_list, url},
    },
    operations::{Class, Operations, Spec, secret},
    tls,
    trust::{Grant, Kind, Parsed, Trusted},
};

const BASE: &str = "/1.0/certificates";
/// Longest name.
const MAX_NAME: usize = 255;

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(BASE, get(list).post(create))
        .route("/1.0/certificates/{fingerprint}", get(show).put(replace).patch(patch).delete(delete))
}

fn location(fingerprint: &str) -> String {
    url(BASE, fingerprint, DEFAULT_PROJECT)
}

fn wire(trusted: &Trusted) -> Certificate {
    let fields = fields(trusted);
    Certificate {
        name: fields.name,
        kind: fields.kind,
        restricted: fields.restricted,
        projects: fields.projects,
        certificate: fields.certificate,
        fingerprint: trusted.fingerprint.clone(),
    }
}

fn fields(trusted: &Trusted) -> CertificatePut {
    CertificatePut {
        name: trusted.grant.name.clone(),
        kind: trusted.grant.kind.name().to_owned(),
        restricted: trusted.grant.restricted,
        projects: trusted.grant.projects.iter().cloned().collect(),
        certificate: trusted.pem.clone(),
    }
}

async fn list(State(app): State<Shared>, query: Query) -> ApiResult {
    let all = app.trust.list();
    let items = all.values().map(|trusted| (location(&trusted.fingerprint), json!(wire(trusted))));
    Ok(envelope::sync(render_list(&query, items.collect())?))
}

async fn show(State(app): State<Shared>, Path(fingerprint): Path<String>) -> ApiResult {
    let trusted = app.trust.get(&fingerprint)?;
    Ok(envelope::tagged(wire(&trusted), &etag::of(&fields(&trusted))))
}

/// What a client asks for, checked.
async fn grant(app: &App, name: &str, kind: &str, restricted: bool, projects: Vec<String>) -> ApiResult<Grant> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(ApiError::invalid(format!(
            "The name \"{}\" of a certificate has 1 to {MAX_NAME} bytes and no control characters",
            name.escape_debug()
        )));
    }
    let kind = match kind {
        "" | "client" => Kind::Client,
        "metrics" => Kind::Metrics,
        other => {
            return Err(ApiError::invalid(format!(
                "Certificate type \"{}\" is not supported; the types are client and metrics",
                other.escape_debug()
            )));
        }
    };
    if !restricted && !projects.is_empty() {
        return Err(ApiError::invalid("Only a restricted certificate has projects; set \"restricted\" as well"));
    }
    for project in &projects {
        // Fails if there is no such project.
        app.owner(project, Feature::Profiles).await?;
    }
    Ok(Grant { name: name.to_owned(), kind, restricted, projects: projects.into_iter().collect() })
}

async fn create(
    State(app): State<Shared>,
    access: Access,
    peer: Peer,
    caller: Caller,
    Json(post): Json<CertificatesPost>,
) -> ApiResult {
    if !access.is_full() {
        return introduce(&app, &peer, &caller, post).await;
    }
    if post.token {
        return token(&app, &caller, post).await;
    }
    let parsed = match (post.certificate.is_empty(), &peer) {
        (false, _) => Parsed::from_text(&post.certificate)?,
        (true, Peer::Network { certificate: Some(der), .. }) => Parsed::from_der(der)?,
        (true, _) => {
            return Err(ApiError::invalid(
                "No certificate given: \"certificate\" holds it; or ask for a token by \"token\"",
            ));
        }
    };
    let name = if post.name.is_empty() { parsed.fingerprint()[..12].to_owned() } else { post.name };
    let grant = grant(&app, &name, &post.kind, post.restricted, post.projects).await?;
    add(&app, &caller, parsed, grant).await
}

async fn add(app: &App, caller: &Caller, parsed: Parsed, grant: Grant) -> ApiResult {
    let now = Timestamp::now();
    if !(parsed.not_before..=parsed.not_after).contains(&now) {
        return Err(ApiError::invalid(format!(
            "The certificate is valid from {} to {} only; make another one",
            parsed.not_before, parsed.not_after
        )));
    }
    let trusted = Trusted {
        fingerprint: parsed.fingerprint(),
        pem: parsed.pem(),
        not_before: parsed.not_before,
        not_after: parsed.not_after,
        grant,
    };
    app.trust.add(&trusted).await?;
    let location = location(&trusted.fingerprint);
    app.happened("certificate-created", &location, None, caller);
    Ok(envelope::created(&location))
}

/// A stranger shows that it was given the password or a token, and gets the certificate of its connection trusted.
async fn introduce(app: &App, peer: &Peer, caller: &Caller, post: CertificatesPost) -> ApiResult {
    let refused = || ApiError::forbidden("not authorized");
    let Peer::Network { address, certificate: Some(der), .. } = peer else { return Err(refused()) };
    let parsed = Parsed::from_der(der)?;
    if !post.certificate.is_empty() && Parsed::from_text(&post.certificate)? != parsed {
        return Err(ApiError::invalid("Only the certificate of the connection itself can get trusted this way"));
    }
    if post.token || post.password.is_empty() {
        return Err(refused());
    }
    let turn = app.trust.attempts.begin(*address).await.ok_or_else(|| {
        ApiError::new(http::StatusCode::TOO_MANY_REQUESTS, "Too many failed attempts; try again in a minute")
    })?;
    let grant = match app.trust.tokens.take(&post.password) {
        Some(grant) => grant,
        None => {
            let hash = app.settings.trust_password().ok_or_else(refused)?;
            let password = post.password;
            let right = tokio::task::spawn_blocking(move || hash.verify(&password)).await;
            if !right.map_err(|error| ApiError::internal(error.to_string()))? {
                tracing::warn!(%address, "somebody gave a wrong password to get trusted");
                return Err(refused());
            }
            let name = if post.name.is_empty() { address.to_string() } else { post.name };
            grant(app, &name, &post.kind, post.restricted, post.projects).await?
        }
    };
    drop(turn);
    app.trust.attempts.succeeded(*address);
    add(app, caller, parsed, grant).await
}

/// A token: an operation that runs until somebody uses it.
async fn token(app: &App, caller: &Caller, post: CertificatesPost) -> ApiResult {
    let grant = grant(app, &post.name, &post.kind, post.restricted, post.projects.clone()).await?;
    let https = app.settings.https_address().ok_or_else(|| {
        ApiError::invalid("The server listens on no address, so that a token leads nowhere; set \"core.https_address\"")
    })?;
    let secret = secret();
    let token = app.trust.tokens.add(&secret, grant).ok_or_else(|| {
        ApiError::invalid("There are too many tokens already; revoke some with \"config trust revoke-token\"")
    })?;
    let request = json!({
        "name": post.name, "type": post.kind, "restricted": post.restricted, "projects": post.projects,
        "certificate": "", "password": "", "token": true,
    });
    let mut spec = Spec::new("Executing operation", None, caller)
        .class(Class::Token)
        .metadata("request", request)
        .metadata("fingerprint", app.identity.fingerprint.clone())
        .metadata("addresses", tls::reachable(&https))
        .private("secret", secret)
        .cancellable();
    let expiry = app.settings.token_expiry();
    if let Some(at) = expiry.and_then(|expiry| Timestamp::now().checked_add(expiry).ok()) {
        spec = spec.metadata("expiresAt", at.to_string());
    }
    let operation = app.operations.spawn(spec, |_| async move {
        match expiry {
            None => token.used().await,
            Some(expiry) => tokio::time::timeout(expiry, token.used())
                .await
                .map_err(|_| ApiError::invalid("The token was not used in time"))?,
        }
        Ok(())
    })?;
    Ok(Operations::reply(&operation))
}

async fn write(app: &App, trusted: &Trusted, put: CertificatePut, caller: &Caller) -> ApiResult {
    if !put.certificate.is_empty() && Parsed::from_text(&put.certificate)?.fingerprint() != trusted.fingerprint {
        return Err(ApiError::invalid("The certificate itself cannot be changed; add the new one and remove this one"));
    }
    let grant = grant(app, &put.name, &put.kind, put.restricted, put.projects).await?;
    app.trust.update(&trusted.fingerprint, grant).await?;
    app.happened("certificate-updated", &location(&trusted.fingerprint), None, caller);
    Ok(envelope::empty())
}

async fn replace(
    State(app): State<Shared>,
    Path(fingerprint): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<CertificatePut>,
) -> ApiResult {
    let trusted = app.trust.get(&fingerprint)?;
    etag::check(&headers, &etag::of(&fields(&trusted)))?;
    write(&app, &trusted, put, &caller).await
}

async fn patch(
    State(app): State<Shared>,
    Path(fingerprint): Path<String>,
    caller: Caller,
    headers: HeaderMap,
    request: axum::extract::Request,
) -> ApiResult {
    let bytes = body::read(request.into_body(), body::MAX_JSON).await?;
    let trusted = app.trust.get(&fingerprint)?;
    let current = fields(&trusted);
    etag::check(&headers, &etag::of(&current))?;
    write(&app, &trusted, patched(&current, &bytes)?, &caller).await
}

async fn delete(State(app): State<Shared>, Path(fingerprint): Path<String>, caller: Caller) -> ApiResult {
    let trusted = app.trust.get(&fingerprint)?;
    app.trust.remove(&trusted.fingerprint).await?;
    app.happened("certificate-deleted", &location(&trusted.fingerprint), None, &caller);
    Ok(envelope::empty())
}
