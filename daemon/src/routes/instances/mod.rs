//! `/1.0/instances`, and the same under the legacy paths `/1.0/containers` and `/1.0/virtual-machines`.

mod backups;
mod console;
mod create;
mod crud;
mod exec;
mod files;
mod import;
mod list;
mod logs;
mod metadata;
mod moves;
mod rebuild;
mod session;
mod snapshots;
mod state;

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRequestParts, Path},
};
use berth_instances::{Instance, Kind};
use http::request::Parts;
use serde::Deserialize;

use crate::{
    app::{App, Shared},
    http::{ApiError, ApiResult, Caller, Query, query::url},
    operations::Spec,
};

/// Under which path a client came. Each shows URLs of its own, and the legacy ones only their kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// `/1.0/instances`.
    Instances,
    /// `/1.0/containers`.
    Containers,
    /// `/1.0/virtual-machines`.
    VirtualMachines,
}

impl Prefix {
    const ALL: [Self; 3] = [Self::Instances, Self::Containers, Self::VirtualMachines];

    /// Its path.
    pub fn base(self) -> &'static str {
        match self {
            Self::Instances => "/1.0/instances",
            Self::Containers => "/1.0/containers",
            Self::VirtualMachines => "/1.0/virtual-machines",
        }
    }

    /// The only kind that is shown under it.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::Instances => None,
            Self::Containers => Some(Kind::Container),
            Self::VirtualMachines => Some(Kind::VirtualMachine),
        }
    }

    fn admits(self, kind: Kind) -> bool {
        self.kind().is_none_or(|only| only == kind)
    }

    /// An instance, if it is shown under this path.
    pub fn find(self, app: &App, project: &str, name: &str) -> ApiResult<Arc<Instance>> {
        let instance = app.instances.get(project, name)?;
        if self.admits(instance.kind) {
            return Ok(instance);
        }
        Err(ApiError::not_found(format!(
            "Instance \"{name}\" is a {}; it is not found under {}",
            instance.kind,
            self.base()
        )))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Prefix {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let path = parts.uri.path();
        Self::ALL.into_iter().find(|p| path.starts_with(p.base())).ok_or_else(|| ApiError::not_found("Not found"))
    }
}

pub fn routes() -> Router<Shared> {
    Prefix::ALL.iter().fold(Router::new(), |router, prefix| {
        let base = prefix.base();
        router
            .merge(list::routes(base))
            .merge(crud::routes(base))
            .merge(state::routes(base))
            .merge(exec::routes(base))
            .merge(console::routes(base))
            .merge(files::routes(base))
            .merge(logs::routes(base))
            .merge(metadata::routes(base))
            .merge(snapshots::routes(base))
            .merge(backups::routes(base))
            .merge(rebuild::routes(base))
    })
}

/// The instance that a request is about.
pub struct Target {
    pub app: Shared,
    pub prefix: Prefix,
    pub instance: Arc<Instance>,
}

impl FromRequestParts<Shared> for Target {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self, ApiError> {
        let prefix = Prefix::from_request_parts(parts, app).await?;
        let query = Query::from_request_parts(parts, app).await?;
        let path = Path::from_request_parts(parts, app).await;
        let Path(Named { name }) = path.map_err(|error| ApiError::invalid(format!("Invalid path: {error}")))?;
        let instance = prefix.find(app, query.project(), &name)?;
        Ok(Self { app: app.clone(), prefix, instance })
    }
}

/// What of a path tells which instance.
#[derive(Deserialize)]
struct Named {
    name: String,
}

/// The description of an operation on an instance.
fn operation(description: &str, instance: &Instance, caller: &Caller) -> Spec {
    operation_at(description, &instance.project, &instance.name, caller)
}

/// The description of an operation on an instance that need not be there yet. Old clients look for the resource under
/// `containers`.
fn operation_at(description: &str, project: &str, name: &str, caller: &Caller) -> Spec {
    Spec::new(description, Some(project), caller)
        .resource("containers", url("/1.0/containers", name, project))
        .resource("instances", url("/1.0/instances", name, project))
}

/// Tells what happened to an instance.
fn happened(app: &App, action: &'static str, instance: &Instance, caller: &Caller) {
    let Instance { name, project, .. } = instance;
    app.happened(action, &url("/1.0/instances", name, project), Some(project), caller);
}
