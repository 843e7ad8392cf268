//! Lists of instances, and the same change for all of them.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::get};
use berth_api::instances::{InstanceState, InstancesPut};
use berth_instances::{Instance, Status};
use futures::{StreamExt, stream};
use serde_json::{Map, Value, json};

use super::{Prefix, create, state};
use crate::{
    app::{App, Shared},
    convert::instances as convert,
    http::{ApiError, ApiResult, Caller, Json, Query, envelope, query::url},
    operations::Spec,
};

/// Guests asked at a time for their state.
const CONCURRENCY: usize = 32;
/// How long one guest may take to tell its state before the list goes on without it.
const PATIENCE: Duration = Duration::from_secs(3);

pub fn routes(base: &str) -> Router<Shared> {
    Router::new().route(base, get(list).post(create::create).put(change_all))
}

async fn list(State(app): State<Shared>, prefix: Prefix, query: Query) -> ApiResult {
    let filter = query.filter()?;
    let mut instances = app.instances.list(query.list_project()?);
    instances.retain(|instance| prefix.admits(instance.kind));
    if query.recursion() == 0 && filter.is_empty() {
        let urls: Vec<_> = instances.iter().map(|i| url(prefix.base(), &i.name, &i.project)).collect();
        return Ok(envelope::sync(urls));
    }
    // What the filter may look at is all but the live parts, so guests that it drops are not asked.
    if !filter.is_empty() {
        instances.retain(|instance| filter.matches(&json!(convert::instance(instance))));
    }
    Ok(match query.recursion() {
        0 => envelope::sync(instances.iter().map(|i| url(prefix.base(), &i.name, &i.project)).collect::<Vec<_>>()),
        1 => envelope::sync(instances.iter().map(|i| convert::instance(i)).collect::<Vec<_>>()),
        _ => {
            let mut backups = app.instances.all_backups().await?;
            let full = stream::iter(instances).map(|instance| {
                let app = app.clone();
                let backups = backups.remove(&instance.uuid).unwrap_or_default();
                async move {
                    let state = live_state(&app, &instance, Depth::Activity).await;
                    convert::full(&instance, state, &backups)
                }
            });
            envelope::sync(full.buffered(CONCURRENCY).collect::<Vec<_>>().await)
        }
    })
}

/// How much of a state is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All of it.
    Whole,
    /// All but the space of the root volume, which may take long.
    Activity,
}

/// The state of an instance; of one that cannot tell it in time what is known without it.
pub async fn live_state(app: &App, instance: &Arc<Instance>, depth: Depth) -> Option<InstanceState> {
    let asked = async {
        let (project, name) = (&instance.project, &instance.name);
        match depth {
            Depth::Whole => app.instances.state(project, name).await,
            Depth::Activity => app.instances.activity(project, name).await,
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(report)) => Some(convert::state(&report)),
        // Deleted meanwhile.
        Ok(Err(_)) => None,
        Err(_) => {
            tracing::warn!(instance = %instance.name, project = %instance.project, "the guest does not tell its state in time");
            let silent = berth_instances::StateReport {
                instance: instance.clone(),
                guest: None,
                root_usage: None,
                host_names: std::collections::BTreeMap::new(),
            };
            Some(convert::state(&silent))
        }
    }
}

/// `PUT` on the list: one change of state for all instances of the project.
async fn change_all(
    State(app): State<Shared>,
    prefix: Prefix,
    query: Query,
    caller: Caller,
    Json(put): Json<InstancesPut>,
) -> ApiResult {
    let put = put.state.ok_or_else(|| ApiError::invalid("No state given: \"state\" tells the action"))?;
    let change = state::Change::parse(&put)?;
    let project = query.project().to_owned();
    let mut instances = app.instances.list(Some(&project));
    instances.retain(|i| prefix.admits(i.kind) && applies(change.action, i.status));
    let mut spec = Spec::new("Updating instances", Some(&project), &caller);
    for instance in &instances {
        spec = spec.resource("instances", url("/1.0/instances", &instance.name, &project));
    }
    app.clone().operations.accept(spec, |_| async move {
        let changes = stream::iter(instances).map(|instance| {
            let (app, change) = (app.clone(), change.clone());
            async move {
                let result = change.apply(&app, &instance.project, &instance.name).await;
                result.map_err(|error| format!("{}: {error}", instance.name))
            }
        });
        let failures: Vec<String> =
            changes.buffer_unordered(CONCURRENCY).filter_map(async |result| result.err()).collect().await;
        if failures.is_empty() { Ok(Map::<String, Value>::new()) } else { Err(ApiError::invalid(failures.join("; "))) }
    })
}

/// Whether an action changes an instance in that status: the others are left alone, not failed.
fn applies(action: state::Action, status: Status) -> bool {
    use state::Action;
    match action {
        Action::Start => status == Status::Stopped,
        Action::Unfreeze => status == Status::Frozen,
        Action::Stop | Action::Restart => matches!(status, Status::Running | Status::Frozen),
        Action::Freeze => status == Status::Running,
    }
}
