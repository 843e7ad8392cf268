//! Making an instance of a backup.

use std::sync::Arc;

use berth_images::{BackupVolumes, Progress};
use berth_store::{Txn, doc, step};

use super::create::Draft;
use super::restore::devices_on;
use super::use_running::volume_kind;
use super::volumes::{Volume, purpose};
use super::{Instances, Shared};
use crate::backups::{Restored, SnapshotPart, Upload, index};
use crate::blocking::blocking;
use crate::cloud_init::INSTANCE_ID;
use crate::documents::{SnapshotDoc, snapshot_key};
use crate::error::Result;
use crate::model::{Config, CreateRequest, Devices, Instance, Kind, Source};
use crate::nics::HWADDR;
use crate::plan;
use crate::templates::{PENDING, is_pending};
use crate::values::{parse_mac, parse_size};

/// Profile whose pool is used for a backup from a pool that is not here.
const DEFAULT_PROFILE: &str = "default";
/// Name of the root disk that an instance gets whose backup and profiles tell of none.
const ROOT: &str = "root";
/// What a disk may have more than its size says: others round up.
const ROUNDING: u64 = 1 << 20;

impl Instances {
    /// A file for a backup that is being sent.
    pub async fn upload(&self) -> Result<Upload> {
        let files = self.shared.backup_files();
        Ok(Upload { scratch: blocking(move || files.scratch()).await? })
    }

    /// Looks into a backup that was sent.
    pub async fn look_into(&self, upload: Upload) -> Result<Restored> {
        let description = self.shared.images.backups().describe(upload.path()).await?;
        Restored::of(upload, description)
    }

    /// Makes an instance, called as it was or by a new name, of a backup: in `pool`, or where it was, or where the default
    /// profile has its instances.
    pub async fn import(
        &self,
        project: &str,
        name: &str,
        pool: Option<&str>,
        restored: Restored,
        progress: &Arc<Progress>,
    ) -> Result<Arc<Instance>> {
        self.shared.projects.get(project).await?;
        let pool = self.shared.pool_for(project, pool, &restored.pool).await?;
        let devices = self.shared.with_root(project, &restored, &pool).await?;
        let request = CreateRequest {
            name: name.to_owned(),
            kind: restored.kind,
            config: restored.config.clone(),
            devices,
            profiles: Some(restored.profiles.clone()),
            description: restored.description.clone(),
            ephemeral: restored.ephemeral,
            source: Source::Backup(Arc::new(restored)),
        };
        self.create(project, request, progress).await
    }
}

impl Shared {
    async fn pool_for(&self, project: &str, wanted: Option<&str>, before: &str) -> Result<String> {
        if let Some(wanted) = wanted {
            return Ok(self.pools.get(wanted).await?.name);
        }
        let missing = match self.pools.get(before).await {
            Ok(pool) => return Ok(pool.name),
            Err(e) => e,
        };
        let default = self.profiles.get(project, DEFAULT_PROFILE).await?;
        match plan::root_disk(&default.devices, Kind::Container) {
            Ok((pool, _)) => Ok(pool),
            Err(_) => Err(missing.into()),
        }
    }

    /// The instance's own devices with a root disk on `pool`.
    async fn with_root(&self, project: &str, restored: &Restored, pool: &str) -> Result<Devices> {
        let own = &restored.devices;
        let (_, expanded) = self.expanded(project, &restored.profiles, &restored.config, own).await?;
        Ok(root_on(own, &expanded, restored.kind, pool))
    }

    /// Of the volatile keys in a backup those that still hold here: addresses that nobody else has.
    pub(super) fn still_good(&self, restored: &Restored) -> Config {
        let views: Vec<_> = self.registry().values().map(|handle| handle.view.borrow().clone()).collect();
        let taken = |address: &str| {
            let has = |config: &Config| config.iter().any(|(key, value)| key.ends_with(HWADDR) && value == address);
            views.iter().any(|instance| has(&instance.volatile))
        };
        let good = |key: &str, value: &str| match key {
            PENDING => is_pending(value),
            INSTANCE_ID => uuid::Uuid::parse_str(value).is_ok(),
            "volatile.base_image" => value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit()),
            key => key.ends_with(HWADDR) && parse_mac(value).is_ok() && !taken(value),
        };
        let kept = restored.volatile.iter().filter(|(key, value)| good(key, value));
        kept.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Fills the volumes of a new instance and its snapshots with what is in a backup.
    pub(super) async fn unpack_backup(
        &self,
        draft: &Draft,
        restored: &Restored,
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let kind = draft.document.kind;
        let fresh = |part: &SnapshotPart| {
            (
                part.clone(),
                Volume { purpose: purpose(kind, true), ..Volume::of(&draft.document).fresh(&draft.document.pool) },
            )
        };
        let parts: Vec<(SnapshotPart, Volume)> = restored.snapshots.iter().map(fresh).collect();
        let done = self.unpack_parts(draft, restored, &parts, progress).await;
        if done.is_err() {
            // Those that an instance's snapshot speaks of by now are removed with it; their waste is gone.
            for (_, volume) in &parts {
                self.dispose_or_later(volume).await;
            }
        }
        done
    }

    async fn unpack_parts(
        &self,
        draft: &Draft,
        restored: &Restored,
        parts: &[(SnapshotPart, Volume)],
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let document = &draft.document;
        let own = self
            .pools
            .prepare(&document.pool, volume_kind(document.kind), &document.volume.simple().to_string())
            .await?;
        let mut pending = Vec::new();
        let mut places = Vec::new();
        for (part, volume) in parts {
            self.store.txn(Txn::new().write(volume.waste(None))).await?;
            let volume = volume.reference();
            let prepared = self.pools.prepare(&volume.pool, volume.kind, &volume.name).await?;
            places.push((part.name.clone(), prepared.path().to_owned()));
            pending.push(prepared);
        }
        let into = BackupVolumes { kind: index::kind(document.kind), volume: own.path(), snapshots: &places };
        let archive = restored.upload.path();
        let backups = self.images.backups();
        let idmaps = parts.iter().map(|(part, _)| &part.idmap).chain([&restored.idmap]);
        let idmaps: Vec<String> = idmaps.cloned().collect();
        let left_out =
            backups.unpack(archive, into, &idmaps, largest_disk(&draft.expanded_devices), &**progress).await?;
        step::done("backup unpacked");
        if left_out > 0 {
            tracing::warn!(instance = %draft.name, left_out, "device nodes of the backup that a container may not have were left out");
        }
        for prepared in pending {
            prepared.commit().await?;
        }
        own.commit().await?;
        for (part, volume) in parts {
            let snapshot = self.restored_snapshot(draft, part, volume).await?;
            let write = doc::put(snapshot_key(document.uuid, &part.name), &snapshot);
            self.store.txn(Txn::new().write(write).write(volume.used())).await?;
        }
        Ok(())
    }

    async fn restored_snapshot(&self, draft: &Draft, part: &SnapshotPart, volume: &Volume) -> Result<SnapshotDoc> {
        let kind = draft.document.kind;
        // A profile that only the snapshot had may not be here, which a restore will tell.
        let expanded = self.expanded(&draft.project, &part.profiles, &part.config, &part.devices).await;
        let devices = match expanded {
            Ok((_, expanded)) => root_on(&part.devices, &expanded, kind, &volume.pool),
            Err(_) => part.devices.clone(),
        };
        Ok(SnapshotDoc {
            pool: volume.pool.clone(),
            volume: volume.uuid,
            created_at: part.created_at,
            expires_at: part.expires_at,
            architecture: part.architecture.clone(),
            description: part.description.clone(),
            config: part.config.clone(),
            devices,
            profiles: part.profiles.clone(),
            ephemeral: part.ephemeral,
            last_used_at: part.last_used_at,
            volatile: Config::new(),
        })
    }
}

/// The devices `own`, whose root disk (`expanded` has it too if it is a profile's) is on `pool`.
fn root_on(own: &Devices, expanded: &Devices, kind: Kind, pool: &str) -> Devices {
    if plan::root_disk(expanded, kind).is_ok_and(|(there, _)| there == pool) {
        return own.clone();
    }
    devices_on(own, expanded, pool).unwrap_or_else(|_| {
        let root = [("type", "disk"), ("path", "/"), ("pool", pool)];
        let root: Config = root.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut devices = own.clone();
        devices.entry(ROOT.to_owned()).or_insert(root);
        devices
    })
}

/// How large a disk may be that is to be the root disk: as its size says, if it says something.
fn largest_disk(devices: &Devices) -> u64 {
    let root = devices.values().find(|device| device.get("path").is_some_and(|path| path == "/"));
    let size = root.and_then(|root| root.get("size")).and_then(|size| parse_size(size).ok());
    size.map_or(u64::MAX, |size| size.saturating_add(ROUNDING))
}
