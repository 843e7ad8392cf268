//! Volumes of instances and snapshots: made, filled with the content of others, and removed, so that none is forgotten.
//!
//! Before a volume is filled, and before one is removed, a document says that nothing else speaks of it ([`WasteDoc`]). The
//! transaction that puts a volume to use takes that document away, the one that ends its use writes it. So whenever
//! the daemon is killed, either everything is as it was and the waste is removed at the next start, or it is done.

use std::sync::Arc;

use berth_images::{Progress, ProgressEvent};
use berth_storage::{CopyProgress, VolumeKind, VolumeRef};
use berth_store::{ErrorKind, Txn, Write, doc};
use berth_supervisor::protocol::RunState;
use uuid::Uuid;

use super::actor::Actor;
use super::{Instances, Shared};
use crate::documents::{InstanceDoc, Purpose, SnapshotDoc, WasteDoc, waste_key};
use crate::error::{Error, Result};
use crate::model::{Devices, Kind, Status};
use crate::plan;

/// Which volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Volume {
    pub pool: String,
    pub purpose: Purpose,
    pub uuid: Uuid,
}

impl Volume {
    /// The volume of an instance.
    pub fn of(document: &InstanceDoc) -> Self {
        Self { pool: document.pool.clone(), purpose: purpose(document.kind, false), uuid: document.volume }
    }

    /// The volume of a snapshot of an instance of that kind.
    pub fn of_snapshot(kind: Kind, snapshot: &SnapshotDoc) -> Self {
        Self { pool: snapshot.pool.clone(), purpose: purpose(kind, true), uuid: snapshot.volume }
    }

    /// One that does not exist yet, for the same purpose as this.
    pub fn fresh(&self, pool: &str) -> Self {
        Self { pool: pool.to_owned(), purpose: self.purpose, uuid: Uuid::new_v4() }
    }

    /// As storage knows it.
    pub fn reference(&self) -> VolumeRef {
        let kind = match self.purpose {
            Purpose::Container => VolumeKind::Container,
            Purpose::VirtualMachine => VolumeKind::VirtualMachine,
            Purpose::ContainerSnapshot => VolumeKind::ContainerSnapshot,
            Purpose::VirtualMachineSnapshot => VolumeKind::VirtualMachineSnapshot,
        };
        VolumeRef { pool: self.pool.clone(), kind, name: self.uuid.simple().to_string() }
    }

    /// The write that says that nothing else speaks of it.
    pub fn waste(&self, paused: Option<Uuid>) -> Write {
        let waste = WasteDoc { pool: self.pool.clone(), purpose: self.purpose, paused };
        doc::put(waste_key(Some(self.uuid)), &waste)
    }

    /// The write that puts it to use.
    pub fn used(&self) -> Write {
        Write::Delete(waste_key(Some(self.uuid)))
    }
}

/// What the volume of an instance, or of a snapshot of one, is for.
pub(super) fn purpose(kind: Kind, snapshot: bool) -> Purpose {
    match (kind, snapshot) {
        (Kind::Container, false) => Purpose::Container,
        (Kind::Container, true) => Purpose::ContainerSnapshot,
        (Kind::VirtualMachine, false) => Purpose::VirtualMachine,
        (Kind::VirtualMachine, true) => Purpose::VirtualMachineSnapshot,
    }
}

/// Tells how far a copy is by its bytes.
pub(super) fn by_bytes(progress: &Arc<Progress>) -> Arc<CopyProgress> {
    let progress = progress.clone();
    Arc::new(move |bytes| {
        let text = format!("{} MiB", bytes >> 20);
        progress(ProgressEvent { stage: "copy".to_owned(), percent: None, text });
    })
}

impl Shared {
    /// Removes a volume that the waste speaks of.
    pub(super) async fn dispose(&self, volume: &Volume) -> Result<()> {
        let VolumeRef { pool, kind, name } = volume.reference();
        match self.pools.delete(&pool, kind, &name).await {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        self.store.txn(Txn::new().write(volume.used())).await?;
        Ok(())
    }

    /// Limits what the volume of an instance holds to what its devices say.
    pub(super) async fn limit_volume(&self, document: &InstanceDoc, devices: &Devices) -> Result<()> {
        let limit = plan::root_limit(devices, document.kind).map_err(Error::Invalid)?;
        let VolumeRef { pool, kind, name } = Volume::of(document).reference();
        Ok(self.pools.limit(&pool, kind, &name, limit).await?)
    }

    /// The same, where the work itself is done: what fails is done by the next start.
    pub(super) async fn dispose_or_later(&self, volume: &Volume) {
        if let Err(e) = self.dispose(volume).await {
            tracing::warn!(volume = %volume.uuid, "cannot remove it; the next start will: {e}");
        }
    }
}

impl Instances {
    /// At the daemon's start: removes volumes that nothing speaks of, and lets go on what was paused for them.
    pub(super) async fn clear_waste(&self) -> Result<()> {
        let store = &*self.shared.store;
        for (key, waste) in doc::list::<WasteDoc>(store, &waste_key(None)).await? {
            let Ok(uuid) = Uuid::parse_str(&key.name()) else { continue };
            let WasteDoc { pool, purpose, paused } = waste.doc;
            if let Some(paused) = paused {
                self.wake(paused).await;
            }
            tracing::info!(volume = %uuid, "removing what was left half made or half removed");
            self.shared.dispose_or_later(&Volume { pool, purpose, uuid }).await;
        }
        Ok(())
    }

    async fn wake(&self, uuid: Uuid) {
        let Some(instance) = self.list(None).into_iter().find(|instance| instance.uuid == uuid) else { return };
        if instance.status == Status::Frozen
            && let Err(e) = self.unfreeze(&instance.project, &instance.name).await
        {
            tracing::warn!(instance = %instance.name, "cannot let it go on after a snapshot was cut off: {e}");
        }
    }
}

impl Actor {
    /// Makes the volume `to` with the content of `from`: the instance's own or that of one of its snapshots. Its own is not
    /// written to meanwhile. `to` is waste until a transaction says otherwise; on an error there is nothing of it.
    /// `given_up` ends the work.
    pub(super) async fn copy_volume(
        &mut self,
        from: &Volume,
        to: &Volume,
        progress: &Arc<Progress>,
        given_up: impl Future<Output = ()>,
    ) -> Result<()> {
        let own = from.uuid == self.document.volume;
        let pause = own && self.live.as_ref().is_some_and(|live| live.state == RunState::Running);
        let waste = to.waste(pause.then_some(self.document.uuid));
        self.shared.store.txn(Txn::new().write(waste)).await?;
        let copied = self.copy_still(from, to, pause, progress, given_up).await;
        if copied.is_err() {
            self.shared.dispose_or_later(to).await;
        }
        copied
    }

    async fn copy_still(
        &mut self,
        from: &Volume,
        to: &Volume,
        pause: bool,
        progress: &Arc<Progress>,
        given_up: impl Future<Output = ()>,
    ) -> Result<()> {
        if pause {
            self.driver().settle(&self.places().run_dir).await;
            self.pause(true).await?;
        }
        let pools = self.shared.pools.clone();
        let (source, target) = (from.reference(), to.reference());
        let copied = tokio::select! {
            copied = pools.copy(&source, &target, by_bytes(progress)) => copied.map_err(Error::from),
            () = given_up => Err(Error::State("the work was given up".to_owned())),
        };
        if pause && let Err(e) = self.pause(false).await {
            // It may have ended meanwhile, which is told by its supervisor.
            tracing::warn!(instance = %self.name, "cannot let it go on: {e}");
        }
        copied?.commit().await?;
        Ok(())
    }
}
