//! Snapshots, by the owner of their instance.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_images::Progress;
use berth_store::{Outcome, Txn, doc};
use jiff::{Timestamp, ZonedDateTime};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::actor::Actor;
use super::export::Readable;
use super::lend::Loan;
use super::volumes::{Volume, purpose};
use super::{Answer, Command, Instances, Shared};
use crate::documents::{SnapshotDoc, snapshot_key, snapshots_key};
use crate::error::{Error, Result};
use crate::model::{NewSnapshot, Snapshot, Source};
use crate::projects::Permission;
use crate::snapshots::{expiry, name as names};

/// What the owner of an instance is asked to do with its volume and its snapshots. The owner does nothing else
/// meanwhile; it gives up when nobody waits for the answer any more.
pub(super) enum Work {
    Create {
        new: NewSnapshot,
        progress: Arc<Progress>,
        answer: Answer<String>,
    },
    Rename {
        name: String,
        new_name: String,
        answer: Answer<()>,
    },
    Expire {
        name: String,
        expires_at: Option<Timestamp>,
        answer: Answer<()>,
    },
    Delete {
        name: String,
        answer: Answer<()>,
    },
    Restore {
        name: String,
        progress: Arc<Progress>,
        answer: Answer<()>,
    },
    /// Fill a volume that is waste so far; `snapshot`: with the content of that one.
    CopyTo {
        snapshot: Option<String>,
        to: Volume,
        progress: Arc<Progress>,
        answer: Answer<()>,
    },
    /// Take a volume that is waste so far in place of the own one.
    Replace {
        volume: Volume,
        answer: Answer<()>,
    },
    /// Take a snapshot of another instance, whose volume is waste so far.
    Adopt {
        name: String,
        snapshot: Box<SnapshotDoc>,
        answer: Answer<()>,
    },
    /// Leave the volume as it is while somebody reads it.
    Lend {
        snapshot: Option<String>,
        answer: Answer<Loan>,
    },
    /// Get a new content.
    Rebuild {
        source: Source,
        progress: Arc<Progress>,
        answer: Answer<()>,
    },
    /// Leave the volumes as they are while a backup is made of them.
    Read {
        instance_only: bool,
        progress: Arc<Progress>,
        answer: Answer<Readable>,
    },
    /// Go to another pool.
    Move {
        pool: String,
        progress: Arc<Progress>,
        answer: Answer<()>,
    },
}

impl Instances {
    /// Makes a snapshot and gives its name.
    pub async fn create_snapshot(
        &self,
        project: &str,
        name: &str,
        new: NewSnapshot,
        progress: &Arc<Progress>,
    ) -> Result<String> {
        let progress = progress.clone();
        self.work(project, name, |answer| Work::Create { new, progress, answer }).await
    }

    /// Gives a snapshot another name.
    pub async fn rename_snapshot(&self, project: &str, name: &str, snapshot: &str, new_name: &str) -> Result<()> {
        let (snapshot, new_name) = (snapshot.to_owned(), new_name.to_owned());
        self.work(project, name, |answer| Work::Rename { name: snapshot, new_name, answer }).await
    }

    /// Sets when a snapshot is deleted by itself.
    pub async fn expire_snapshot(
        &self,
        project: &str,
        name: &str,
        snapshot: &str,
        expires_at: Option<Timestamp>,
    ) -> Result<()> {
        let snapshot = snapshot.to_owned();
        self.work(project, name, |answer| Work::Expire { name: snapshot, expires_at, answer }).await
    }

    /// Deletes a snapshot.
    pub async fn delete_snapshot(&self, project: &str, name: &str, snapshot: &str) -> Result<()> {
        let snapshot = snapshot.to_owned();
        self.work(project, name, |answer| Work::Delete { name: snapshot, answer }).await
    }

    /// Makes an instance what it was at a snapshot. One that runs is stopped for a moment and started again.
    pub async fn restore(&self, project: &str, name: &str, snapshot: &str, progress: &Arc<Progress>) -> Result<()> {
        let (snapshot, progress) = (snapshot.to_owned(), progress.clone());
        self.work(project, name, |answer| Work::Restore { name: snapshot, progress, answer }).await
    }

    pub(super) async fn work<T>(&self, project: &str, name: &str, work: impl FnOnce(Answer<T>) -> Work) -> Result<T> {
        let (answer, result) = oneshot::channel();
        let gone = || super::not_found(project, name);
        let command = Command::Work(Box::new(work(answer)));
        self.handle(project, name)?.commands.send(command).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

impl Shared {
    /// The snapshots of an instance.
    pub(super) async fn snapshots(&self, instance: Uuid) -> Result<BTreeMap<String, SnapshotDoc>> {
        let found = doc::list::<SnapshotDoc>(&*self.store, &snapshots_key(instance)).await?;
        Ok(found.into_iter().map(|(key, snapshot)| (key.name(), snapshot.doc)).collect())
    }

    /// Deletes a snapshot of an instance of that kind.
    pub(super) async fn remove_snapshot(&self, instance: Uuid, name: &str, volume: &Volume) -> Result<()> {
        let txn = Txn::new().delete(snapshot_key(instance, name)).write(volume.waste(None));
        self.store.txn(txn).await?;
        self.dispose_or_later(volume).await;
        Ok(())
    }
}

/// Answers and tells whether that was good news.
fn reply<T>(answer: Answer<T>, result: Result<T>) {
    // Whoever asked may have gone away.
    let _ = answer.send(result);
}

impl Actor {
    pub(super) async fn do_work(&mut self, work: Work) {
        match work {
            Work::Create { new, progress, mut answer } => {
                let result = self.create_snapshot(new, &progress, answer.closed()).await;
                reply(answer, result);
            }
            Work::Rename { name, new_name, answer } => reply(answer, self.rename_snapshot(&name, &new_name).await),
            Work::Expire { name, expires_at, answer } => reply(answer, self.expire_snapshot(&name, expires_at).await),
            Work::Delete { name, answer } => reply(answer, self.delete_snapshot(&name).await),
            Work::Restore { name, progress, mut answer } => {
                let result = self.restore(&name, &progress, answer.closed()).await;
                reply(answer, result);
            }
            Work::CopyTo { snapshot, to, progress, mut answer } => {
                let result = match self.source(snapshot.as_deref()) {
                    Ok(from) => self.copy_volume(&from, &to, &progress, answer.closed()).await,
                    Err(e) => Err(e),
                };
                reply(answer, result);
            }
            Work::Replace { volume, answer } => reply(answer, self.replace_volume(volume).await),
            Work::Adopt { name, snapshot, answer } => reply(answer, self.adopt_snapshot(name, *snapshot).await),
            Work::Lend { snapshot, answer } => self.lend(snapshot.as_deref(), answer).await,
            Work::Rebuild { source, progress, mut answer } => {
                let result = self.rebuild(source, &progress, answer.closed()).await;
                reply(answer, result);
            }
            Work::Read { instance_only, progress, answer } => self.let_read(instance_only, &progress, answer).await,
            Work::Move { pool, progress, mut answer } => {
                let result = self.move_to_pool(&pool, &progress, answer.closed()).await;
                reply(answer, result);
            }
        }
    }

    /// The volume of the instance or of a snapshot.
    pub(super) fn source(&self, snapshot: Option<&str>) -> Result<Volume> {
        match snapshot {
            None => Ok(Volume::of(&self.document)),
            Some(name) => Ok(Volume::of_snapshot(self.document.kind, self.snapshot_named(name)?)),
        }
    }

    pub(super) fn snapshot_named(&self, name: &str) -> Result<&SnapshotDoc> {
        self.snapshots.get(name).ok_or_else(|| Error::NotFound {
            what: "Snapshot",
            name: format!("{}/{name}", self.name),
            project: self.project.clone(),
        })
    }

    async fn create_snapshot(
        &mut self,
        new: NewSnapshot,
        progress: &Arc<Progress>,
        given_up: impl Future<Output = ()>,
    ) -> Result<String> {
        if new.stateful {
            return Err(Error::Invalid(format!(
                "instance \"{}\": stateful snapshots are not supported by this version; take one without the run state",
                self.name
            )));
        }
        self.shared.projects.permits(&self.project, Permission::Snapshots).await?;
        let config = self.view.borrow().expanded_config.clone();
        let value = |key: &str| config.get(key).map(String::as_str).unwrap_or_default();
        let now = ZonedDateTime::now();
        let name = match new.name {
            Some(name) => name,
            None => {
                let taken = |name: &str| self.snapshots.contains_key(name);
                let others = self.snapshots.keys().map(String::as_str);
                names::invent(value("snapshots.pattern"), &now, taken, others).map_err(Error::Invalid)?
            }
        };
        names::check(&name).map_err(Error::Invalid)?;
        if self.snapshots.contains_key(&name) {
            return Err(self.snapshot_exists(&name));
        }
        let expires_at = match new.expires_at {
            Some(given) => given,
            None => expiry::end(value("snapshots.expiry"), now.timestamp()).map_err(Error::Invalid)?,
        };
        let to = Volume {
            pool: self.document.pool.clone(),
            purpose: purpose(self.document.kind, true),
            uuid: Uuid::new_v4(),
        };
        self.copy_volume(&Volume::of(&self.document), &to, progress, given_up).await?;
        let snapshot = self.as_snapshot(&to, now.timestamp(), expires_at);
        self.keep_snapshot(name.clone(), snapshot, &to).await?;
        self.emit_about("instance-snapshot-created", &[("snapshot", &name)]);
        Ok(name)
    }

    fn snapshot_exists(&self, name: &str) -> Error {
        let name = format!("{}/{name}", self.name);
        Error::Exists { what: "Snapshot", name, project: self.project.clone() }
    }

    fn as_snapshot(&self, volume: &Volume, created_at: Timestamp, expires_at: Option<Timestamp>) -> SnapshotDoc {
        let document = &self.document;
        SnapshotDoc {
            pool: volume.pool.clone(),
            volume: volume.uuid,
            created_at,
            expires_at,
            architecture: document.architecture.clone(),
            description: document.description.clone(),
            config: document.config.clone(),
            devices: document.devices.clone(),
            profiles: document.profiles.clone(),
            ephemeral: document.ephemeral,
            last_used_at: self.volatile.last_used_at,
            volatile: self.volatile.values.clone(),
        }
    }

    /// Puts a volume to use as a snapshot.
    async fn keep_snapshot(&mut self, name: String, snapshot: SnapshotDoc, volume: &Volume) -> Result<()> {
        let key = snapshot_key(self.document.uuid, &name);
        let txn = Txn::new().absent(key.clone()).write(doc::put(key, &snapshot)).write(volume.used());
        let kept = match self.shared.store.txn(txn).await {
            Ok(Outcome::Committed { .. }) => Ok(()),
            Ok(Outcome::Conflict { .. }) => Err(self.snapshot_exists(&name)),
            Err(e) => Err(e.into()),
        };
        if kept.is_err() {
            self.shared.dispose_or_later(volume).await;
            return kept;
        }
        self.snapshots.insert(name, snapshot);
        self.publish().await
    }

    async fn adopt_snapshot(&mut self, name: String, snapshot: SnapshotDoc) -> Result<()> {
        let volume = Volume::of_snapshot(self.document.kind, &snapshot);
        self.keep_snapshot(name, snapshot, &volume).await
    }

    async fn rename_snapshot(&mut self, name: &str, new_name: &str) -> Result<()> {
        names::check(new_name).map_err(Error::Invalid)?;
        let snapshot = self.snapshot_named(name)?.clone();
        let (old, new) = (snapshot_key(self.document.uuid, name), snapshot_key(self.document.uuid, new_name));
        let txn = Txn::new().exists(old.clone()).absent(new.clone()).delete(old).write(doc::put(new, &snapshot));
        let Outcome::Committed { .. } = self.shared.store.txn(txn).await? else {
            return Err(self.snapshot_exists(new_name));
        };
        self.snapshots.remove(name);
        self.snapshots.insert(new_name.to_owned(), snapshot);
        self.publish().await?;
        self.emit_about("instance-snapshot-renamed", &[("snapshot", new_name), ("old_name", name)]);
        Ok(())
    }

    async fn expire_snapshot(&mut self, name: &str, expires_at: Option<Timestamp>) -> Result<()> {
        let snapshot = SnapshotDoc { expires_at, ..self.snapshot_named(name)?.clone() };
        let write = doc::put(snapshot_key(self.document.uuid, name), &snapshot);
        self.shared.store.txn(Txn::new().write(write)).await?;
        self.snapshots.insert(name.to_owned(), snapshot);
        self.publish().await?;
        self.emit_about("instance-snapshot-updated", &[("snapshot", name)]);
        Ok(())
    }

    async fn delete_snapshot(&mut self, name: &str) -> Result<()> {
        let volume = Volume::of_snapshot(self.document.kind, self.snapshot_named(name)?);
        self.unread().await;
        self.shared.remove_snapshot(self.document.uuid, name, &volume).await?;
        self.snapshots.remove(name);
        self.publish().await?;
        self.emit_about("instance-snapshot-deleted", &[("snapshot", name)]);
        Ok(())
    }

    /// All snapshots as others see them, the oldest first.
    pub(super) async fn snapshot_views(&self) -> Result<Vec<Snapshot>> {
        if self.snapshots.is_empty() {
            return Ok(Vec::new());
        }
        let profiles = self.shared.profiles.by_name(&self.project).await?;
        let mut views: Vec<Snapshot> = self
            .snapshots
            .iter()
            .map(|(name, snapshot)| {
                // A profile that is gone by now gives nothing.
                let chosen = snapshot.profiles.iter().filter_map(|name| profiles.get(name));
                let chosen = chosen.map(|profile| (&profile.config, &profile.devices));
                let (expanded_config, expanded_devices) =
                    crate::expand::expand(chosen, &snapshot.config, &snapshot.devices);
                let volatile = snapshot.volatile.clone().into_iter();
                Snapshot {
                    name: name.clone(),
                    created_at: snapshot.created_at,
                    expires_at: snapshot.expires_at,
                    architecture: snapshot.architecture.clone(),
                    description: snapshot.description.clone(),
                    config: snapshot.config.clone().into_iter().chain(volatile).collect(),
                    devices: snapshot.devices.clone(),
                    profiles: snapshot.profiles.clone(),
                    ephemeral: snapshot.ephemeral,
                    last_used_at: snapshot.last_used_at,
                    pool: snapshot.pool.clone(),
                    expanded_config,
                    expanded_devices,
                }
            })
            .collect();
        views.sort_by_key(|snapshot| snapshot.created_at);
        Ok(views)
    }
}
