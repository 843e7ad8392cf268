//! The owner of one instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use berth_store::{Admission, Always, ErrorKind, Outcome, Txn, admitted, doc};
use berth_supervisor::protocol::{Exit, ExitReason, Request, RunState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::launch::Power;
use super::live::{Heard, Live, Stopping, Then};
use super::{Answer, Command, Shared};
use crate::documents::{InstanceDoc, Kept, Phase, SnapshotDoc, VolatileDoc, instance_key, volatile_key};
use crate::drivers::{Driver, supervised};
use crate::error::{Error, Result};
use crate::model::{Instance, StartFrom, Status, StopRequest, TroubleKind};
use crate::plan::Places;
use crate::values::parse_bool;

/// Why an instance last ended or did not start, if nobody asked for that.
const LAST_ERROR: &str = "volatile.last_state.error";

/// A date so far ahead that a timer set to it never fires.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

pub(super) struct Actor {
    pub shared: Arc<Shared>,
    pub project: String,
    pub name: String,
    pub document: InstanceDoc,
    pub revision: u64,
    pub volatile: VolatileDoc,
    /// By name.
    pub snapshots: BTreeMap<String, SnapshotDoc>,
    pub view: watch::Sender<Arc<Instance>>,
    pub commands: mpsc::Receiver<Command>,
    pub live: Option<Live>,
    pub starting: bool,
    /// Each ends when a backup that reads the snapshots is done.
    pub readers: Vec<oneshot::Receiver<()>>,
}

/// Whether the owner goes on.
#[derive(PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    Gone,
}

impl Actor {
    /// Serves until the instance is deleted.
    pub async fn run(mut self) {
        loop {
            let deadline = self.live.as_ref().and_then(|live| live.stopping.as_ref()?.deadline);
            let next = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => Next::Gone,
                },
                heard = hear(&mut self.live) => self.heard(heard).await,
                () = tokio::time::sleep_until(deadline.unwrap_or_else(|| Instant::now() + NEVER)) => {
                    self.give_up_stopping().await;
                    Next::GoOn
                }
            };
            if next == Next::Gone {
                break;
            }
        }
    }

    async fn obey(&mut self, command: Command) -> Next {
        match command {
            Command::Start(from, answer) => reply(answer, self.start(from).await),
            Command::Stop { request, then, answer } => self.stop(request, then, answer).await,
            Command::Freeze(answer) => reply(answer, self.pause(true).await),
            Command::Unfreeze(answer) => reply(answer, self.pause(false).await),
            Command::Update { update, revision, answer } => reply(answer, self.update(*update, revision).await),
            Command::Rename { project, name, answer } => reply(answer, self.rename(project, name).await),
            Command::Refresh(answer) => reply(answer, self.refresh().await),
            Command::Origin(work) => self.work_on_origin(work).await,
            Command::Work(work) => self.do_work(*work).await,
            Command::Delete(answer) => {
                let result = self.delete().await;
                let gone = result.is_ok();
                reply(answer, result);
                return if gone { Next::Gone } else { Next::GoOn };
            }
        }
        Next::GoOn
    }

    pub(super) fn driver(&self) -> &dyn Driver {
        self.shared.drivers.of(self.document.kind)
    }

    pub(super) fn places(&self) -> Places {
        self.shared.places(self.document.uuid)
    }

    pub(super) fn status(&self) -> Status {
        match &self.live {
            None if self.starting => Status::Starting,
            None => Status::Stopped,
            Some(live) if live.state == RunState::Paused => Status::Frozen,
            Some(live) if live.stopping.is_some() => Status::Stopping,
            Some(_) => Status::Running,
        }
    }

    /// Works the instance out anew and lets everybody see it.
    pub(super) async fn publish(&mut self) -> Result<()> {
        let document = &self.document;
        let expanded = self.shared.expanded(&self.project, &document.profiles, &document.config, &document.devices);
        let (expanded_config, expanded_devices) = expanded.await?;
        let mut instance = self.snapshot(expanded_config, expanded_devices);
        instance.snapshots = Arc::new(self.snapshot_views().await?);
        self.view.send_replace(Arc::new(instance));
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Lets everybody see a change that has nothing to do with profiles.
    pub(super) fn show(&self) {
        let old = self.view.borrow().clone();
        let new = self.snapshot(old.expanded_config.clone(), old.expanded_devices.clone());
        self.view.send_replace(Arc::new(new));
    }

    pub(super) fn snapshot(&self, expanded_config: crate::Config, expanded_devices: crate::Devices) -> Instance {
        let document = &self.document;
        Instance {
            project: self.project.clone(),
            name: self.name.clone(),
            uuid: document.uuid,
            kind: document.kind,
            architecture: document.architecture.clone(),
            description: document.description.clone(),
            config: document.config.clone(),
            devices: document.devices.clone(),
            profiles: document.profiles.clone(),
            ephemeral: document.ephemeral,
            stateful: self.volatile.kept != Kept::Nothing,
            created_at: document.created_at,
            last_used_at: self.volatile.last_used_at,
            pool: document.pool.clone(),
            volume: document.volume.simple().to_string(),
            snapshots: self.view.borrow().snapshots.clone(),
            expanded_config,
            expanded_devices,
            volatile: self.volatile.values.clone(),
            revision: self.revision,
            status: self.status(),
            pid: self.live.as_ref().map(|live| live.pid),
            agent: self.live.as_ref().and_then(|live| live.agent.clone()),
        }
    }

    pub(super) async fn save_volatile(&self) -> Result<()> {
        let write = doc::put(volatile_key(self.document.uuid), &self.volatile);
        self.shared.store.txn(Txn::new().write(write)).await?;
        Ok(())
    }

    /// Keeps what went wrong last, for whoever asks later; saved with the other volatile values.
    pub(super) fn remember_error(&mut self, error: Option<String>) {
        match error {
            Some(error) => self.volatile.values.insert(LAST_ERROR.to_owned(), error),
            None => self.volatile.values.remove(LAST_ERROR),
        };
    }

    pub(super) fn leftover(&self, message: String) {
        self.shared.trouble(TroubleKind::Leftover, &self.project, &self.name, message);
    }

    pub(super) fn emit(&self, action: &'static str) {
        self.emit_about(action, &[]);
    }

    pub(super) fn emit_about(&self, action: &'static str, context: &[(&str, &str)]) {
        self.shared.emit(action, &self.project, &self.name, context);
    }

    pub(super) fn refuse_if_running(&self, verb: &str) -> Result<()> {
        match &self.live {
            None => Ok(()),
            Some(_) => {
                Err(Error::State(format!("instance \"{}\" is running and cannot be {verb}; stop it first", self.name)))
            }
        }
    }

    async fn stop(&mut self, request: StopRequest, then: Then, answer: Answer<()>) {
        let run_dir = self.places().run_dir;
        let frozen = self.status() == Status::Frozen;
        if self.live.is_none() {
            return reply(answer, Err(Error::State(format!("The instance is already stopped: \"{}\"", self.name))));
        }
        // Who wants it to rest wants that with the host down too.
        let before = self.live.as_ref().and_then(|live| live.stopping.as_ref()).map(|stopping| stopping.then);
        let then = if (before, then) == (Some(Then::Rest), Then::ComeBack) { Then::Rest } else { then };
        if let Err(e) = self.intend(then).await {
            return reply(answer, Err(e));
        }
        let asked = if request.stateful {
            self.save_and_end().await
        } else if request.force {
            supervised::ask(&run_dir, &Request::Kill).await.map(drop)
        } else if frozen {
            Err(Error::State(format!(
                "instance \"{}\" is frozen; unfreeze it first or stop it with --force",
                self.name
            )))
        } else {
            self.shared.drivers.of(self.document.kind).shutdown(&run_dir).await
        };
        if let Err(e) = asked {
            self.intend_or_warn(before.unwrap_or_default()).await;
            return reply(answer, Err(e));
        }
        let Some(live) = &mut self.live else { return reply(answer, Ok(())) };
        let deadline =
            request.timeout.filter(|_| !request.force && !request.stateful).map(|timeout| Instant::now() + timeout);
        let stopping = live.stopping.get_or_insert_with(|| Stopping { deadline, then, answers: Vec::new() });
        stopping.deadline = deadline;
        stopping.then = then;
        stopping.answers.push(answer);
        self.show();
    }

    /// Remembers what is to follow the end of the run, before anything is done about that: the next daemon goes on with it.
    pub(super) async fn intend(&mut self, then: Then) -> Result<()> {
        if self.volatile.then == then {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.volatile.then, then);
        let saved = self.save_volatile().await;
        match saved {
            // It can be stopped on a full disk too; only a daemon that is killed meanwhile forgets what follows.
            Err(e) if e.kind() == ErrorKind::NoSpace => {
                tracing::warn!(instance = %self.name, "what is to follow its end is not recorded: {e}");
                Ok(())
            }
            Err(e) => {
                self.volatile.then = before;
                Err(e)
            }
            Ok(()) => Ok(()),
        }
    }

    /// The same where the run goes on in any case.
    pub(super) async fn intend_or_warn(&mut self, then: Then) {
        if let Err(e) = self.intend(then).await {
            tracing::warn!(instance = %self.name, "it is remembered wrongly what is to follow its end: {e}");
        }
    }

    async fn give_up_stopping(&mut self) {
        let Some(stopping) = self.live.as_mut().and_then(|live| live.stopping.take()) else { return };
        for answer in stopping.answers {
            let message = format!(
                "instance \"{}\" did not shut down in time and still runs; wait longer or stop it with --force",
                self.name
            );
            reply(answer, Err(Error::State(message)));
        }
        self.intend_or_warn(Then::Rest).await;
        self.show();
    }

    pub(super) async fn pause(&mut self, pause: bool) -> Result<()> {
        if self.live.is_none() {
            return Err(Error::State(format!("instance \"{}\" is not running; start it first", self.name)));
        }
        let request = if pause { Request::Pause } else { Request::Resume };
        supervised::ask(&self.places().run_dir, &request).await?;
        // The supervisor's event follows; whoever asked sees the new state at once.
        if let Some(live) = &mut self.live {
            live.state = if pause { RunState::Paused } else { RunState::Running };
        }
        self.show();
        Ok(())
    }

    async fn heard(&mut self, heard: Heard) -> Next {
        match heard {
            Heard::Ready => {
                // Before anybody sees it.
                self.connect().await;
                self.show();
                self.emit("instance-ready");
                Next::GoOn
            }
            Heard::Change(action) => {
                self.show();
                if let Some(action) = action {
                    self.emit(action);
                }
                Next::GoOn
            }
            Heard::End => {
                let Some(mut live) = self.live.take() else { return Next::GoOn };
                let exit = match live.reap(&self.places().run_dir).await {
                    Ok(exit) => exit,
                    Err(e) => Exit { reason: ExitReason::Error, message: e.to_string() },
                };
                self.ended(exit, live.stopping.take()).await
            }
        }
    }

    /// Deals with the end of a run. Also called at the daemon's start for a run that ended without it.
    pub(super) async fn ended(&mut self, exit: Exit, stopping: Option<Stopping>) -> Next {
        self.live = None;
        let unexpected = matches!(exit.reason, ExitReason::Panic | ExitReason::Error)
            || (exit.reason == ExitReason::Killed && stopping.is_none());
        self.remember_error(unexpected.then(|| exit.message.clone()));
        // A state that a start was about to use when the daemon ended is as good as before.
        if exit.reason == ExitReason::Saved {
            self.volatile.kept = Kept::Own;
        }
        let then = match &stopping {
            Some(stopping) => stopping.then,
            // What ends by itself just when the host goes down may have been given up waiting for.
            None if self.shared.closing.is_cancelled() => Then::ComeBack,
            None if exit.reason == ExitReason::Reboot => Then::Restart,
            None => Then::Rest,
        };
        self.volatile.then = then;
        let cleared = self.clear_away(if then == Then::Rest { Power::Stopped } else { Power::Running }).await;
        if unexpected {
            tracing::warn!(instance = %self.name, "ended unexpectedly: {}", exit.message);
        }
        self.show();
        self.emit(if matches!(exit.reason, ExitReason::Killed | ExitReason::Saved) {
            "instance-stopped"
        } else {
            "instance-shutdown"
        });
        let mut result = cleared;
        let mut next = Next::GoOn;
        if then == Then::Restart && result.is_ok() {
            result = self.start(StartFrom::Boot).await;
            self.emit("instance-restarted");
        } else if self.document.ephemeral && result.is_ok() {
            result = self.delete().await;
            next = if result.is_ok() { Next::Gone } else { Next::GoOn };
        }
        let answers = stopping.map(|stopping| stopping.answers).unwrap_or_default();
        if let (true, Err(e)) = (answers.is_empty(), &result) {
            self.leftover(format!("what had to follow its end failed: {e}"));
        }
        let message = result.err().map(|e| e.to_string());
        for answer in answers {
            reply(answer, message.clone().map_or(Ok(()), |message| Err(Error::Runtime(message))));
        }
        next
    }

    pub(super) async fn replace(
        &mut self,
        document: InstanceDoc,
        revision: u64,
        admission: &dyn Admission,
    ) -> Result<()> {
        let key = instance_key(&self.project, &self.name);
        let txn = Txn::new().mod_rev(key.clone(), revision).write(doc::put(key, &document));
        match admitted(&*self.shared.store, &txn, admission, 0).await? {
            Outcome::Committed { rev } => {
                (self.document, self.revision) = (document, rev);
                Ok(())
            }
            Outcome::Conflict { .. } => Err(Error::Changed { what: "Instance", name: self.name.clone() }),
        }
    }

    async fn delete(&mut self) -> Result<()> {
        self.refuse_if_running("deleted")?;
        let protection = self.view.borrow().expanded_config.get("security.protection.delete").cloned();
        if protection.is_some_and(|value| parse_bool(&value) == Ok(true)) {
            return Err(Error::Invalid(format!(
                "instance \"{}\" is protected from deletion; unset security.protection.delete first",
                self.name
            )));
        }
        self.unread().await;
        let document = InstanceDoc { phase: Phase::Deleting, ..self.document.clone() };
        match self.replace(document, self.revision, &Always).await {
            // Deleting frees space. Without this record, a deletion that is cut off has to be repeated by the user.
            Err(e) if e.kind() == ErrorKind::NoSpace => tracing::warn!(instance = %self.name, "deleting: {e}"),
            other => other?,
        }
        self.shared.remove(&self.project, &self.name, &self.document).await?;
        self.shared.registry().remove(&(self.project.clone(), self.name.clone()));
        self.emit("instance-deleted");
        Ok(())
    }
}

/// Waits for a supervisor's words; for ever if there is none.
async fn hear(live: &mut Option<Live>) -> Heard {
    match live {
        Some(live) => live.hear().await,
        None => std::future::pending().await,
    }
}

/// Answers; whoever asked may have gone away.
fn reply<T>(answer: Answer<T>, result: Result<T>) {
    let _ = answer.send(result);
}
