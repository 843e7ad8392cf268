//! `state` of an instance: what it uses; start, stop, restart, freeze, unfreeze.

use std::time::Duration;

use axum::{Router, routing::get};
use berth_api::instances::InstanceStatePut;
use berth_instances::{StartFrom, Status, StopRequest};

use super::{
    Target,
    list::{Depth, live_state},
    operation,
};
use crate::{
    app::{App, Shared},
    http::{ApiError, ApiResult, Caller, Json, envelope},
};

pub fn routes(base: &str) -> Router<Shared> {
    Router::new().route(&format!("{base}/{{name}}/state"), get(show).put(change))
}

/// What can be done with an instance's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Start,
    Stop,
    Restart,
    Freeze,
    Unfreeze,
}

/// A wanted change.
#[derive(Debug, Clone)]
pub struct Change {
    pub action: Action,
    from: StartFrom,
    stop: StopRequest,
    wait: bool,
}

impl Change {
    /// Reads a request.
    pub fn parse(put: &InstanceStatePut) -> ApiResult<Self> {
        let action = match put.action.as_str() {
            "start" => Action::Start,
            "stop" => Action::Stop,
            "restart" => Action::Restart,
            "freeze" => Action::Freeze,
            "unfreeze" => Action::Unfreeze,
            other => {
                return Err(ApiError::invalid(format!(
                    "Unknown action \"{other}\"; the actions are start, stop, restart, freeze and unfreeze"
                )));
            }
        };
        if put.stateful && !matches!(action, Action::Start | Action::Stop) {
            return Err(ApiError::invalid("\"stateful\" is for start and stop; leave it out"));
        }
        // LXD: -1 waits as long as it takes, and so does 0 by what its clients send.
        let timeout = u64::try_from(put.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let from = if put.stateful { StartFrom::Saved } else { StartFrom::Boot };
        let stop = StopRequest { stateful: put.stateful, force: put.force, timeout };
        Ok(Self { action, from, stop, wait: put.wait })
    }

    fn description(&self) -> &'static str {
        match self.action {
            Action::Start => "Starting instance",
            Action::Stop => "Stopping instance",
            Action::Restart => "Restarting instance",
            Action::Freeze => "Freezing instance",
            Action::Unfreeze => "Unfreezing instance",
        }
    }

    /// Does it.
    pub async fn apply(&self, app: &App, project: &str, name: &str) -> ApiResult<()> {
        let instances = &app.instances;
        match self.action {
            // As LXD's: start lets a frozen instance go on.
            Action::Start if instances.get(project, name)?.status == Status::Frozen => {
                instances.unfreeze(project, name).await?;
            }
            Action::Start => instances.start(project, name, self.from).await?,
            Action::Stop => instances.stop(project, name, self.stop).await?,
            Action::Restart => instances.restart(project, name, self.stop).await?,
            Action::Freeze => instances.freeze(project, name).await?,
            Action::Unfreeze => instances.unfreeze(project, name).await?,
        }
        if self.wait && matches!(self.action, Action::Start | Action::Restart) {
            instances.ready(project, name).await?;
        }
        Ok(())
    }
}

async fn show(Target { app, instance, .. }: Target) -> ApiResult {
    let name = &instance.name;
    let state = live_state(&app, &instance, Depth::Whole).await;
    Ok(envelope::sync(state.ok_or_else(|| ApiError::not_found(format!("Instance \"{name}\" not found")))?))
}

async fn change(Target { app, instance, .. }: Target, caller: Caller, Json(put): Json<InstanceStatePut>) -> ApiResult {
    let change = Change::parse(&put)?;
    let spec = operation(change.description(), &instance, &caller);
    app.clone().operations.accept(spec, |_| async move {
        change.apply(&app, &instance.project, &instance.name).await?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(action: &str, timeout: i64) -> InstanceStatePut {
        InstanceStatePut { action: action.into(), timeout, force: true, ..InstanceStatePut::default() }
    }

    #[test]
    fn requests_are_read() {
        let change = Change::parse(&put("stop", 30)).unwrap();
        assert_eq!((change.action, change.stop.timeout), (Action::Stop, Some(Duration::from_secs(30))));
        assert!(change.stop.force);
        assert_eq!(Change::parse(&put("stop", -1)).unwrap().stop.timeout, None);
        assert!(Change::parse(&put("jump", 0)).is_err());
        let stateful = |action| Change::parse(&InstanceStatePut { stateful: true, ..put(action, 0) });
        assert!(stateful("stop").unwrap().stop.stateful);
        assert_eq!(stateful("start").unwrap().from, StartFrom::Saved);
        assert!(stateful("freeze").is_err());
    }
}
