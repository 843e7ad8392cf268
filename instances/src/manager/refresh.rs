//! Copies of instances: new ones, and old ones brought up to date.

use std::sync::Arc;

use berth_images::Progress;
use berth_store::{Txn, doc};

use super::Instances;
use super::snapshots::Work;
use super::volumes::{Volume, purpose};
use crate::documents::{InstanceDoc, SnapshotDoc, snapshot_key};
use crate::error::{Error, Result};
use crate::model::{Config, CreateRequest, Devices, Instance, Original, Snapshot, Source};

impl Instances {
    /// Fills in what a copy takes over from its source.
    pub(super) fn inherit(&self, request: &mut CreateRequest) -> Result<()> {
        let Source::Copy(original) = &mut request.source else { return Ok(()) };
        let source = self.get(&original.project, &original.instance)?;
        let (config, devices, profiles, description) = match &original.snapshot {
            None => (&source.config, &source.devices, &source.profiles, &source.description),
            Some(name) => {
                let snapshot = snapshot_of(&source, name)?;
                (&snapshot.config, &snapshot.devices, &snapshot.profiles, &snapshot.description)
            }
        };
        original.base_image = source.volatile.get("volatile.base_image").cloned();
        request.kind = source.kind;
        for (key, value) in config.iter().filter(|(key, _)| !key.starts_with("volatile.")) {
            request.config.entry(key.clone()).or_insert_with(|| value.clone());
        }
        for (name, device) in devices {
            request.devices.entry(name.clone()).or_insert_with(|| device.clone());
        }
        request.profiles.get_or_insert_with(|| profiles.clone());
        if request.description.is_empty() {
            request.description.clone_from(description);
        }
        Ok(())
    }

    /// Fills the volume of a new instance, and makes its snapshots.
    pub(super) async fn copy_into(
        &self,
        original: &Original,
        document: &InstanceDoc,
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let source = self.get(&original.project, &original.instance)?;
        if original.snapshot.is_none() && !original.instance_only {
            for snapshot in source.snapshots.iter() {
                let copied = self.copy_snapshot(original, snapshot, document, progress).await?;
                let key = snapshot_key(document.uuid, &snapshot.name);
                let used = Volume::of_snapshot(document.kind, &copied).used();
                self.shared.store.txn(Txn::new().write(doc::put(key, &copied)).write(used)).await?;
            }
        }
        let to = Volume::of(document);
        self.copy_to(original, original.snapshot.clone(), to.clone(), progress).await?;
        // The document of the new instance speaks of it already.
        self.shared.store.txn(Txn::new().write(to.used())).await?;
        Ok(())
    }

    async fn copy_to(
        &self,
        original: &Original,
        snapshot: Option<String>,
        to: Volume,
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let progress = progress.clone();
        let copied =
            self.work(&original.project, &original.instance, |answer| Work::CopyTo { snapshot, to, progress, answer });
        copied.await
    }

    /// Copies a snapshot's volume for an instance; what it gives is not saved yet.
    async fn copy_snapshot(
        &self,
        original: &Original,
        snapshot: &Snapshot,
        document: &InstanceDoc,
        progress: &Arc<Progress>,
    ) -> Result<SnapshotDoc> {
        let to =
            Volume { pool: document.pool.clone(), purpose: purpose(document.kind, true), uuid: uuid::Uuid::new_v4() };
        self.copy_to(original, Some(snapshot.name.clone()), to.clone(), progress).await?;
        let mut config = snapshot.config.clone();
        config.retain(|key, _| !key.starts_with("volatile."));
        Ok(SnapshotDoc {
            pool: to.pool,
            volume: to.uuid,
            created_at: snapshot.created_at,
            expires_at: snapshot.expires_at,
            architecture: snapshot.architecture.clone(),
            description: snapshot.description.clone(),
            config,
            devices: moved(&snapshot.devices, &snapshot.expanded_devices, &document.pool),
            profiles: snapshot.profiles.clone(),
            ephemeral: snapshot.ephemeral,
            last_used_at: snapshot.last_used_at,
            volatile: Config::new(),
        })
    }

    /// Makes the stopped instance `name` the same again as the instance it is a copy of: its content and its snapshots. Its
    /// configuration stays.
    pub async fn refresh_copy(
        &self,
        project: &str,
        name: &str,
        original: &Original,
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let source = self.get(&original.project, &original.instance)?;
        let target = self.get(project, name)?;
        if target.is_running() {
            return Err(Error::State(format!("instance \"{name}\" is running and cannot be refreshed; stop it first")));
        }
        if source.kind != target.kind {
            return Err(Error::Invalid(format!(
                "instance \"{name}\" is a {} and cannot be refreshed from a {}",
                target.kind, source.kind
            )));
        }
        if source.uuid == target.uuid {
            return Err(Error::Invalid(format!("instance \"{name}\" cannot be refreshed from itself")));
        }
        let own = doc::get::<InstanceDoc>(&*self.shared.store, &crate::documents::instance_key(project, name)).await?;
        let document = own.ok_or_else(|| super::not_found(project, name))?.doc;
        if original.snapshot.is_none() && !original.instance_only {
            self.refresh_snapshots(original, &source, &target, &document, progress).await?;
        }
        let volume = Volume::of(&document).fresh(&document.pool);
        self.copy_to(original, original.snapshot.clone(), volume.clone(), progress).await?;
        self.work(project, name, |answer| Work::Replace { volume, answer }).await
    }

    async fn refresh_snapshots(
        &self,
        original: &Original,
        source: &Instance,
        target: &Instance,
        document: &InstanceDoc,
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let same = |a: &Snapshot, b: &Snapshot| a.name == b.name && a.created_at == b.created_at;
        for old in target.snapshots.iter().filter(|old| !source.snapshots.iter().any(|new| same(old, new))) {
            self.delete_snapshot(&target.project, &target.name, &old.name).await?;
        }
        for new in source.snapshots.iter().filter(|new| !target.snapshots.iter().any(|old| same(old, new))) {
            let snapshot = Box::new(self.copy_snapshot(original, new, document, progress).await?);
            let name = new.name.clone();
            self.work(&target.project, &target.name, |answer| Work::Adopt { name, snapshot, answer }).await?;
        }
        Ok(())
    }
}

fn snapshot_of<'a>(source: &'a Instance, name: &str) -> Result<&'a Snapshot> {
    source.snapshot(name).ok_or_else(|| Error::NotFound {
        what: "Snapshot",
        name: format!("{}/{name}", source.name),
        project: source.project.clone(),
    })
}

/// Devices of a snapshot whose volume is on `pool` now.
fn moved(own: &Devices, expanded: &Devices, pool: &str) -> Devices {
    let there = crate::plan::root_disk(expanded, crate::Kind::Container).is_ok_and(|(root, _)| root == pool);
    if there {
        return own.clone();
    }
    // Without a root disk, it cannot be restored, which is told then.
    super::restore::devices_on(own, expanded, pool).unwrap_or_else(|_| own.clone())
}
