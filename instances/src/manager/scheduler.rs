//! What is to be done at a certain time: snapshots by schedule, and the end of those and of backups that have expired.
//!
//! One task does it all, one thing after the other, so that a hundred instances that are due at midnight do not fall over
//! the disks together. It sleeps until the next thing is due, something changes, or somebody sets the clock.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Instances;
use crate::model::{Instance, NewSnapshot, Status};
use crate::snapshots::schedule::Schedule;
use crate::timer::Timer;
use crate::values::parse_bool;

impl Instances {
    /// Runs for ever.
    pub(super) async fn keep_schedules(self) {
        let timer = match Timer::new() {
            Ok(timer) => timer,
            Err(e) => return tracing::error!("snapshots are not made and removed by schedule: no timer: {e}"),
        };
        let mut events = self.events();
        let mut done_until = Timestamp::now();
        loop {
            let now = Timestamp::now();
            // A clock that was set back does not repeat what was done.
            self.do_what_is_due(done_until.min(now), now).await;
            done_until = now;
            let expiring = self.expire_backups(now).await;
            let next = self.next_due(now).into_iter().chain(expiring).min();
            tokio::select! {
                elapsed = timer.wait_until(next) => if let Err(e) = elapsed {
                    tracing::warn!("a timer failed: {e}");
                },
                () = self.shared.changed.notified() => {}
                event = events.recv() => if let Ok(event) = event && event.action == "instance-started" {
                    self.started(&event.project, &event.name).await;
                },
            }
        }
    }

    async fn do_what_is_due(&self, since: Timestamp, now: Timestamp) {
        let zone = TimeZone::system();
        for instance in self.list(None) {
            if wants_snapshots(&instance) && schedule(&instance).next(since, &zone).is_some_and(|due| due <= now) {
                self.snapshot_by_schedule(&instance.project, &instance.name).await;
            }
            for snapshot in instance.snapshots.iter().filter(|s| s.expires_at.is_some_and(|end| end <= now)) {
                tracing::info!(instance = %instance.name, snapshot = %snapshot.name, "it has expired and is deleted");
                let deleted = self.delete_snapshot(&instance.project, &instance.name, &snapshot.name).await;
                if let Err(e) = deleted {
                    tracing::warn!(instance = %instance.name, snapshot = %snapshot.name, "it has expired and cannot be deleted: {e}");
                }
            }
        }
    }

    /// The next moment at which there is something to do.
    fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let zone = TimeZone::system();
        let due = |instance: Arc<Instance>| {
            let snapshot = wants_snapshots(&instance).then(|| schedule(&instance).next(now, &zone)).flatten();
            let ends = instance.snapshots.iter().filter_map(|snapshot| snapshot.expires_at);
            // What could not be deleted is tried again when something else is due.
            snapshot.into_iter().chain(ends.filter(|end| *end > now)).min()
        };
        self.list(None).into_iter().filter_map(due).min()
    }

    async fn started(&self, project: &str, name: &str) {
        let Ok(instance) = self.get(project, name) else { return };
        if schedule(&instance).startup {
            self.snapshot_by_schedule(project, name).await;
        }
    }

    async fn snapshot_by_schedule(&self, project: &str, name: &str) {
        let silent: Arc<berth_images::Progress> = Arc::new(|_| {});
        match self.create_snapshot(project, name, NewSnapshot::default(), &silent).await {
            Ok(snapshot) => tracing::info!(instance = name, snapshot, "snapshot by schedule"),
            Err(e) => tracing::warn!(instance = name, "cannot make a snapshot by schedule: {e}"),
        }
    }
}

/// When an instance is to be copied by itself; a value that cannot be read was refused when it was set.
fn schedule(instance: &Instance) -> Schedule {
    let text = instance.expanded_config.get("snapshots.schedule");
    text.and_then(|text| Schedule::parse(text).ok()).unwrap_or_default()
}

/// Whether the present state of an instance lets it have snapshots by schedule.
fn wants_snapshots(instance: &Instance) -> bool {
    let stopped = instance.expanded_config.get("snapshots.schedule.stopped");
    instance.status != Status::Stopped || stopped.is_some_and(|value| parse_bool(value) == Ok(true))
}
