//! The state that routes share. It only wires the crates below together.

use std::{path::PathBuf, sync::Arc, time::Instant};

use berth_images::Images;
use berth_instances::{Instances, projects::Feature};
use berth_network::Networks;
use berth_storage::Pools;
use berth_store::Store;

use crate::{
    events::{Events, Lifecycle},
    http::{ApiResult, Caller, query},
    operations::Operations,
    settings::Settings,
    stop::Stop,
    tls::Identity,
    trust::Trust,
    warnings::Warnings,
};

/// What handlers get.
pub type Shared = Arc<App>;

/// Everything the daemon consists of.
pub struct App {
    /// When it began.
    pub began: Instant,
    /// Data directory.
    pub dir: PathBuf,
    /// State.
    pub store: Arc<dyn Store>,
    /// Storage pools.
    pub pools: Pools,
    /// Networks.
    pub networks: Networks,
    /// Images.
    pub images: Images,
    /// Instances, profiles and projects.
    pub instances: Instances,
    /// Configuration of the server.
    pub settings: Settings,
    /// Whom the server trusts.
    pub trust: Trust,
    /// The server's certificate.
    pub identity: Identity,
    /// What needs the administrator.
    pub warnings: Warnings,
    /// Background work.
    pub operations: Operations,
    /// The stream of events.
    pub events: Events,
    /// Is told to stop the daemon.
    pub stop: Stop,
}

impl App {
    /// The project that holds objects of a kind for `project`.
    pub async fn owner(&self, project: &str, feature: Feature) -> ApiResult<String> {
        Ok(self.instances.projects().owner(project, feature).await?)
    }

    /// Like [`App::owner`], for lists: `None` if there is no such project, whose list is then empty.
    pub async fn list_owner(&self, project: &str, feature: Feature) -> ApiResult<Option<String>> {
        match self.owner(project, feature).await {
            Ok(owner) => Ok(Some(owner)),
            Err(error) if error.code() == http::StatusCode::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells that a client did something to an object of a project.
    pub fn happened(&self, action: &str, url: &str, project: Option<&str>, caller: &Caller) {
        self.happened_with(action, url, project, caller, serde_json::Value::Null);
    }

    /// Like [`App::happened`], with more about it.
    pub fn happened_with(
        &self,
        action: &str,
        url: &str,
        project: Option<&str>,
        caller: &Caller,
        context: serde_json::Value,
    ) {
        self.events.lifecycle(Lifecycle { action, source: url.to_owned(), context, requestor: Some(caller), project });
    }

    /// Forwards what happens to instances, with the client whose operation caused it.
    pub async fn forward_lifecycle(self: Arc<Self>) {
        use tokio::sync::broadcast::error::RecvError;
        let mut events = self.instances.events();
        loop {
            let event = match events.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "lifecycle events came faster than they could be forwarded");
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            let source = query::url("/1.0/instances", &event.name, &event.project);
            if event.action == "instance-deleted"
                && let Err(error) = self.warnings.forget(&source).await
            {
                tracing::warn!(%error, source, "the warnings of a deleted instance stay");
            }
            let requestor = self.operations.requestor("instances", &source);
            // What happens to a snapshot or a backup is told of it, not of its instance.
            let part = |kind: &str| {
                let name =
                    event.context.get(kind).filter(|_| event.action.starts_with(&format!("instance-{kind}-")))?;
                let base = format!("/1.0/instances/{}/{kind}s", query::encode_path(&event.name));
                Some(query::url(&base, name, &event.project))
            };
            let source = part("snapshot").or_else(|| part("backup")).unwrap_or(source);
            self.events.lifecycle(Lifecycle {
                action: event.action,
                source,
                context: serde_json::json!(event.context),
                requestor: requestor.as_ref(),
                project: Some(&event.project),
            });
        }
    }
}
