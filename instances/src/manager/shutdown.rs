//! The host goes down: instances are stopped in order and come back with it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::live::Then;
use super::{Command, Instances};
use crate::error::{Error, Result};
use crate::model::{Config, Instance, Status, StopRequest, TroubleKind};

/// How long an instance may take to shut down if it does not say, as LXD has it.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the end by force may take before the others no longer wait for it.
const FORCE: Duration = Duration::from_secs(30);

impl Instances {
    /// Stops all instances for as long as the host is down: those with the highest `boot.stop.priority` first, those with
    /// the same one together, each within its `boot.host_shutdown_timeout` or else by force. From the first moment on
    /// nothing is started any more. The next [`open`](Self::open) starts them again.
    pub async fn shut_down(&self) {
        self.shared.closing.cancel();
        let mut groups: BTreeMap<Reverse<i64>, Vec<Arc<Instance>>> = BTreeMap::new();
        for instance in self.list(None).into_iter().filter(|instance| instance.status != Status::Stopped) {
            groups.entry(Reverse(priority(&instance.expanded_config))).or_default().push(instance);
        }
        for (Reverse(priority), group) in groups {
            tracing::info!(priority, count = group.len(), "stopping instances, because the host goes down");
            futures::future::join_all(group.iter().map(|instance| self.stop_for_the_host(instance))).await;
        }
    }

    async fn stop_for_the_host(&self, instance: &Instance) {
        let (project, name) = (&instance.project, &instance.name);
        if instance.status == Status::Frozen {
            // It cannot be asked otherwise; if this fails, so does what follows.
            let _ = self.unfreeze(project, name).await;
        }
        let patience = patience(&instance.expanded_config);
        let clean = StopRequest { stateful: false, force: patience.is_zero(), timeout: Some(patience) };
        // Its owner may be busy.
        let stopped = tokio::time::timeout(patience + FORCE, self.stop_until_back(project, name, clean)).await;
        if matches!(stopped, Ok(Ok(()))) || self.has_stopped(project, name) {
            return;
        }
        let force = StopRequest { stateful: false, force: true, timeout: None };
        let stopped = tokio::time::timeout(FORCE, self.stop_until_back(project, name, force)).await;
        let reason = match stopped {
            Ok(Ok(())) => return,
            Ok(Err(e)) => e.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        if !self.has_stopped(project, name) {
            let message = format!("it could not be stopped before the host went down: {reason}");
            self.shared.trouble(TroubleKind::Leftover, project, name, message);
        }
    }

    async fn stop_until_back(&self, project: &str, name: &str, request: StopRequest) -> Result<()> {
        self.command(project, name, |answer| Command::Stop { request, then: Then::ComeBack, answer }).await
    }

    fn has_stopped(&self, project: &str, name: &str) -> bool {
        match self.get(project, name) {
            Ok(instance) => instance.status == Status::Stopped,
            Err(e) => matches!(e, Error::NotFound { .. }),
        }
    }
}

/// `boot.stop.priority`.
fn priority(config: &Config) -> i64 {
    config.get("boot.stop.priority").and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// `boot.host_shutdown_timeout`.
fn patience(config: &Config) -> Duration {
    let seconds = config.get("boot.host_shutdown_timeout").and_then(|value| value.parse().ok());
    seconds.map_or(PATIENCE, Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_in_lxd() {
        let config = |key: &str, value: &str| Config::from([(key.to_owned(), value.to_owned())]);
        assert_eq!((priority(&Config::new()), patience(&Config::new())), (0, PATIENCE));
        assert_eq!(priority(&config("boot.stop.priority", "-7")), -7);
        assert_eq!(patience(&config("boot.host_shutdown_timeout", "5")), Duration::from_secs(5));
        assert!(patience(&config("boot.host_shutdown_timeout", "0")).is_zero());
        assert_eq!(patience(&config("boot.host_shutdown_timeout", "")), PATIENCE);
    }
}
