//! Putting another content in the place of an instance's own: restoring a snapshot, taking a fresh copy, moving to another
//! pool. The new volume is made while the old one is still in use; one transaction makes the change.

use std::sync::Arc;

use berth_images::Progress;
use berth_store::{Outcome, Txn, admitted, doc};
use berth_supervisor::protocol::{Exit, ExitReason, Request};

use super::actor::Actor;
use super::launch::Power;
use super::live::{Heard, Then};
use super::rebuild::BASE_IMAGE;
use super::volumes::Volume;
use crate::documents::{InstanceDoc, Kept, SnapshotDoc, VolatileDoc, instance_key, snapshot_key, volatile_key};
use crate::drivers::supervised;
use crate::error::{Error, Result};
use crate::model::{Devices, StartFrom};
use crate::plan;
use crate::projects::Change;
use crate::templates::{PENDING, Trigger};

/// Volatile keys that belong to the content of an instance.
const OF_CONTENT: [&str; 2] = [PENDING, BASE_IMAGE];

impl Actor {
    pub(super) async fn restore(
        &mut self,
        name: &str,
        progress: &Arc<Progress>,
        given_up: impl Future<Output = ()>,
    ) -> Result<()> {
        let snapshot = self.snapshot_named(name)?.clone();
        let document = self.restored(&snapshot);
        let kind = document.kind;
        let expanded = self.shared.expanded(&self.project, &document.profiles, &document.config, &document.devices);
        let (_, devices) = expanded.await?;
        let (pool, _) = plan::root_disk(&devices, kind).map_err(Error::Invalid)?;
        self.shared.check_references(&self.project, &pool, &devices, kind).await?;
        let from = Volume::of_snapshot(kind, &snapshot);
        let to = Volume::of(&self.document).fresh(&self.document.pool);
        self.copy_volume(&from, &to, progress, given_up).await?;
        let running = self.live.is_some();
        let stopped = if running { self.end_at_once().await } else { Ok(()) };
        let done = match stopped {
            Ok(()) => {
                let mut volatile = self.with_other_content();
                for key in OF_CONTENT {
                    match snapshot.volatile.get(key) {
                        Some(value) => drop(volatile.values.insert(key.to_owned(), value.clone())),
                        // That of a copy does not tell.
                        None if key == BASE_IMAGE && snapshot.volatile.is_empty() => {}
                        None => drop(volatile.values.remove(key)),
                    }
                }
                self.switch(to.clone(), document, volatile).await
            }
            Err(e) => Err(e),
        };
        if done.is_err() {
            self.shared.dispose_or_later(&to).await;
        } else {
            self.publish().await?;
            self.emit_about("instance-restored", &[("snapshot", name)]);
        }
        // What ran goes on, with the old content if need be.
        if running {
            self.start(StartFrom::Boot).await?;
        }
        done
    }

    fn restored(&self, snapshot: &SnapshotDoc) -> InstanceDoc {
        InstanceDoc {
            architecture: snapshot.architecture.clone(),
            description: snapshot.description.clone(),
            config: snapshot.config.clone(),
            devices: snapshot.devices.clone(),
            profiles: snapshot.profiles.clone(),
            ephemeral: snapshot.ephemeral,
            ..self.document.clone()
        }
    }

    /// Ends the present run, which is not the end of an ephemeral instance. Another run follows, also if the daemon is killed.
    async fn end_at_once(&mut self) -> Result<()> {
        let run_dir = self.places().run_dir;
        self.intend(Then::Restart).await?;
        supervised::ask(&run_dir, &Request::Kill).await?;
        let Some(mut live) = self.live.take() else { return Ok(()) };
        while !matches!(live.hear().await, Heard::End) {}
        let exit = live.reap(&run_dir).await;
        for answer in live.stopping.take().map(|stopping| stopping.answers).unwrap_or_default() {
            // Whoever asked may have gone away.
            let _ = answer.send(Ok(()));
        }
        let Exit { reason, .. } = exit?;
        self.clear_away(Power::Running).await?;
        self.show();
        self.emit_about(if reason == ExitReason::Shutdown { "instance-shutdown" } else { "instance-stopped" }, &[]);
        Ok(())
    }

    /// Puts a volume to use in place of the own one, together with new documents, and removes the old one.
    pub(super) async fn switch(&mut self, volume: Volume, document: InstanceDoc, volatile: VolatileDoc) -> Result<()> {
        let old = Volume::of(&self.document);
        let document = InstanceDoc { pool: volume.pool.clone(), volume: volume.uuid, ..document };
        let expanded = self.shared.expanded(&self.project, &document.profiles, &document.config, &document.devices);
        let (config, devices) = expanded.await?;
        let change = Change::Instance { name: &self.name, kind: document.kind, config: &config, devices: &devices };
        let admission = self.shared.projects.admission(&self.project, change);
        let key = instance_key(&self.project, &self.name);
        let txn = Txn::new()
            .mod_rev(key.clone(), self.revision)
            .write(doc::put(key, &document))
            .write(doc::put(volatile_key(document.uuid), &volatile))
            .write(volume.used())
            .write(old.waste(None));
        let Outcome::Committed { rev } = admitted(&*self.shared.store, &txn, &admission, 0).await? else {
            return Err(Error::Changed { what: "Instance", name: self.name.clone() });
        };
        (self.document, self.revision, self.volatile) = (document, rev, volatile);
        self.shared.dispose_or_later(&old).await;
        Ok(())
    }

    /// What is remembered of the instance once it has another content: a saved run belongs to the one it was saved with.
    pub(super) fn with_other_content(&self) -> VolatileDoc {
        VolatileDoc { kept: Kept::Nothing, ..self.volatile.clone() }
    }

    /// Takes a volume that somebody filled for this instance.
    pub(super) async fn replace_volume(&mut self, volume: Volume) -> Result<()> {
        let done = match self.refuse_if_running("refreshed") {
            Ok(()) => {
                let mut volatile = self.with_other_content();
                Trigger::Copy.defer_only(self.document.kind, &mut volatile.values);
                self.switch(volume.clone(), self.document.clone(), volatile).await
            }
            Err(e) => Err(e),
        };
        if done.is_err() {
            self.shared.dispose_or_later(&volume).await;
        }
        done?;
        self.publish().await
    }

    /// Moves the volume and those of the snapshots to another pool. Cut off in the middle, each is in one of them.
    pub(super) async fn move_to_pool(
        &mut self,
        pool: &str,
        progress: &Arc<Progress>,
        given_up: impl Future<Output = ()>,
    ) -> Result<()> {
        self.refuse_if_running("moved")?;
        self.shared.pools.get(pool).await?;
        self.unread().await;
        let mut given_up = std::pin::pin!(given_up);
        if self.document.pool != pool {
            let devices = self.devices_on(pool)?;
            let from = Volume::of(&self.document);
            let to = from.fresh(pool);
            self.copy_volume(&from, &to, progress, given_up.as_mut()).await?;
            let document = InstanceDoc { devices, ..self.document.clone() };
            if let Err(e) = self.switch(to.clone(), document, self.volatile.clone()).await {
                self.shared.dispose_or_later(&to).await;
                return Err(e);
            }
        }
        for (name, snapshot) in self.snapshots.clone() {
            if snapshot.pool != pool {
                let from = Volume::of_snapshot(self.document.kind, &snapshot);
                let to = from.fresh(pool);
                self.copy_volume(&from, &to, progress, given_up.as_mut()).await?;
                let moved = SnapshotDoc { pool: pool.to_owned(), volume: to.uuid, ..snapshot };
                let write = doc::put(snapshot_key(self.document.uuid, &name), &moved);
                self.shared.store.txn(Txn::new().write(write).write(to.used()).write(from.waste(None))).await?;
                self.shared.dispose_or_later(&from).await;
                self.snapshots.insert(name, moved);
            }
        }
        self.publish().await
    }

    /// Own devices with the root disk on another pool; one that comes from a profile becomes an own one.
    fn devices_on(&self, pool: &str) -> Result<Devices> {
        let expanded = self.view.borrow().expanded_devices.clone();
        devices_on(&self.document.devices, &expanded, pool).map_err(Error::Invalid)
    }
}

/// The devices `own` with the root disk of `expanded` on another pool.
pub(super) fn devices_on(own: &Devices, expanded: &Devices, pool: &str) -> std::result::Result<Devices, String> {
    let is_root = |device: &crate::model::Config| {
        device.get("type").is_some_and(|kind| kind == "disk") && device.get("path").is_some_and(|path| path == "/")
    };
    let (name, root) =
        expanded.iter().find(|(_, device)| is_root(device)).ok_or("the instance has no root disk to be moved")?;
    let mut devices = own.clone();
    let mut root = root.clone();
    root.insert("pool".to_owned(), pool.to_owned());
    devices.insert(name.clone(), root);
    Ok(devices)
}
