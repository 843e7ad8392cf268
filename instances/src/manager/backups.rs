//! The backups of instances that the daemon keeps: made, listed, renamed and deleted.
//!
//! The document comes first and keeps others off the name; it counts once the file is whole. Whatever a daemon finds at its
//! start that is not whole goes.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use berth_images::{Compression, Progress};
use berth_store::{Outcome, Txn, doc};
use jiff::Timestamp;
use uuid::Uuid;

use super::{Instances, Shared};
use crate::backups::files::{Files, Scratch};
use crate::blocking::blocking;
use crate::documents::{BackupDoc, all_backups_key, backup_key, backups_key, uuid_key};
use crate::error::{Error, Result};
use crate::model::{Backup, NewBackup};
use crate::projects::Permission;
use crate::snapshots::name as names;

/// Beginning of the name of a backup that is given none; a number follows.
const PREFIX: &str = "backup";

/// The name of a backup that is yet to be made. Dropping this gives the name up.
pub struct ReservedBackup {
    shared: Arc<Shared>,
    project: String,
    instance: String,
    uuid: Uuid,
    name: String,
    document: BackupDoc,
    scratch: Option<Scratch>,
}

impl ReservedBackup {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for ReservedBackup {
    fn drop(&mut self) {
        if self.scratch.take().is_none() {
            return;
        }
        let (shared, key) = (self.shared.clone(), backup_key(self.uuid, &self.name));
        let give_up = async move {
            if let Err(e) = shared.store.txn(Txn::new().delete(key)).await {
                tracing::warn!("the name of a backup that was not made is free at the next start only: {e}");
            }
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(give_up);
        }
    }
}

impl Instances {
    /// The complete backups of an instance, by name.
    pub async fn backups(&self, project: &str, name: &str) -> Result<Vec<Backup>> {
        let uuid = self.get(project, name)?.uuid;
        let found = doc::list::<BackupDoc>(&*self.shared.store, &backups_key(uuid)).await?;
        Ok(found.into_iter().filter(|(_, v)| v.doc.complete).map(|(key, v)| view(key.name(), &v.doc)).collect())
    }

    /// The complete backups of all instances, by the instance's UUID.
    pub async fn all_backups(&self) -> Result<BTreeMap<Uuid, Vec<Backup>>> {
        let mut all = BTreeMap::<Uuid, Vec<Backup>>::new();
        for (key, found) in doc::list::<BackupDoc>(&*self.shared.store, &all_backups_key()).await? {
            let instance = key.segments().get(1).and_then(|segment| Uuid::parse_str(segment).ok());
            if let Some(instance) = instance.filter(|_| found.doc.complete) {
                all.entry(instance).or_default().push(view(key.name(), &found.doc));
            }
        }
        Ok(all)
    }

    /// Keeps a name for a backup of an instance; see [`Instances::make_backup`].
    pub async fn reserve_backup(&self, project: &str, name: &str, new: NewBackup) -> Result<ReservedBackup> {
        let instance = self.get(project, name)?;
        self.shared.projects.permits(project, Permission::Backups).await?;
        let files = self.shared.backup_files();
        let scratch = blocking(move || files.scratch()).await?;
        let document = BackupDoc {
            file: scratch.uuid,
            created_at: Timestamp::now(),
            expires_at: new.expires_at,
            instance_only: new.instance_only,
            complete: false,
        };
        loop {
            let backup = match &new.name {
                Some(given) => given.clone(),
                None => self.shared.free_backup_name(instance.uuid).await?,
            };
            names::check_of(PREFIX, &backup).map_err(Error::Invalid)?;
            let key = backup_key(instance.uuid, &backup);
            let txn = Txn::new().absent(key.clone()).exists(uuid_key(instance.uuid)).write(doc::put(key, &document));
            match self.shared.store.txn(txn).await? {
                Outcome::Committed { .. } => {
                    return Ok(ReservedBackup {
                        shared: self.shared.clone(),
                        project: project.to_owned(),
                        instance: name.to_owned(),
                        uuid: instance.uuid,
                        name: backup,
                        document,
                        scratch: Some(scratch),
                    });
                }
                // Somebody else took the made-up name meanwhile.
                Outcome::Conflict { current } if new.name.is_none() && current.first().is_some_and(Option::is_some) => {
                }
                Outcome::Conflict { .. } => return Err(exists(project, name, &backup)),
            }
        }
    }

    /// Makes the backup. When this is given up, nothing is left of it.
    pub async fn make_backup(
        &self,
        mut reserved: ReservedBackup,
        compression: Compression,
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let failed = || Error::Runtime("a backup was made twice".to_owned());
        let out = reserved.scratch.as_ref().ok_or_else(failed)?.file.try_clone();
        let out = out.map_err(Error::io("pass on the file of a backup"))?;
        let (project, instance) = (reserved.project.clone(), reserved.instance.clone());
        let instance_only = reserved.document.instance_only;
        self.pack(&project, &instance, instance_only, compression, out, progress).await?;
        let (files, scratch) = (self.shared.backup_files(), reserved.scratch.take().ok_or_else(failed)?);
        let synced = blocking(move || files.sync(&scratch.file).map(|()| scratch)).await;
        reserved.scratch = Some(synced?);
        let key = backup_key(reserved.uuid, &reserved.name);
        let document = BackupDoc { complete: true, ..reserved.document.clone() };
        let txn = Txn::new().exists(key.clone()).exists(uuid_key(reserved.uuid)).write(doc::put(key, &document));
        let Outcome::Committed { .. } = self.shared.store.txn(txn).await? else {
            return Err(super::not_found(&project, &instance));
        };
        if let Some(scratch) = reserved.scratch.take() {
            scratch.keep();
        }
        self.shared.changed.notify_one();
        self.shared.emit("instance-backup-created", &project, &instance, &[("backup", &reserved.name)]);
        Ok(())
    }

    /// Where the file of a complete backup is.
    pub async fn backup_file(&self, project: &str, name: &str, backup: &str) -> Result<PathBuf> {
        let (_, document) = self.found_backup(project, name, backup).await?;
        Ok(self.shared.backup_files().place(document.file))
    }

    /// Tells that the file of a backup was fetched.
    pub fn backup_retrieved(&self, project: &str, name: &str, backup: &str) {
        self.shared.emit("instance-backup-retrieved", project, name, &[("backup", backup)]);
    }

    /// Gives a backup another name.
    pub async fn rename_backup(&self, project: &str, name: &str, backup: &str, new_name: &str) -> Result<()> {
        names::check_of(PREFIX, new_name).map_err(Error::Invalid)?;
        let (uuid, document) = self.found_backup(project, name, backup).await?;
        let (old, new) = (backup_key(uuid, backup), backup_key(uuid, new_name));
        let txn = Txn::new().exists(old.clone()).absent(new.clone()).delete(old).write(doc::put(new, &document));
        let Outcome::Committed { .. } = self.shared.store.txn(txn).await? else {
            return Err(exists(project, name, new_name));
        };
        let context = [("backup", new_name), ("old_name", backup)];
        self.shared.emit("instance-backup-renamed", project, name, &context);
        Ok(())
    }

    /// Deletes a backup.
    pub async fn delete_backup(&self, project: &str, name: &str, backup: &str) -> Result<()> {
        let (uuid, document) = self.found_backup(project, name, backup).await?;
        self.shared.store.txn(Txn::new().delete(backup_key(uuid, backup))).await?;
        self.shared.remove_backup_file(document.file).await;
        self.shared.emit("instance-backup-deleted", project, name, &[("backup", backup)]);
        Ok(())
    }

    async fn found_backup(&self, project: &str, name: &str, backup: &str) -> Result<(Uuid, BackupDoc)> {
        let uuid = self.get(project, name)?.uuid;
        let missing =
            || Error::NotFound { what: "Backup", name: format!("{name}/{backup}"), project: project.to_owned() };
        names::check_of(PREFIX, backup).map_err(|_| missing())?;
        let found = doc::get::<BackupDoc>(&*self.shared.store, &backup_key(uuid, backup)).await?;
        found.map(|v| v.doc).filter(|document| document.complete).map(|document| (uuid, document)).ok_or_else(missing)
    }

    /// At the daemon's start: removes what is not whole, or belongs to an instance that is gone.
    pub(super) async fn clear_backups(&self) -> Result<()> {
        let store = &*self.shared.store;
        let instances: HashSet<Uuid> = self.list(None).iter().map(|instance| instance.uuid).collect();
        let mut known = HashSet::new();
        for (key, found) in doc::list::<BackupDoc>(store, &all_backups_key()).await? {
            let owner = key.segments().get(1).and_then(|segment| Uuid::parse_str(segment).ok());
            if found.doc.complete && owner.is_some_and(|owner| instances.contains(&owner)) {
                known.insert(found.doc.file);
            } else {
                store.txn(Txn::new().delete(key)).await?;
            }
        }
        let files = self.shared.backup_files();
        blocking(move || files.clear(&known)).await
    }

    /// Deletes the backups that have expired at `now`, and gives the next moment at which some will.
    pub(super) async fn expire_backups(&self, now: Timestamp) -> Option<Timestamp> {
        let all = match self.all_backups().await {
            Ok(all) => all,
            Err(e) => {
                tracing::warn!("backups do not expire: {e}");
                return None;
            }
        };
        let mut next = None;
        for instance in self.list(None) {
            for backup in all.get(&instance.uuid).into_iter().flatten() {
                let Some(end) = backup.expires_at else { continue };
                if end > now {
                    next = Some(next.map_or(end, |next: Timestamp| next.min(end)));
                    continue;
                }
                tracing::info!(instance = %instance.name, backup = %backup.name, "it has expired and is deleted");
                if let Err(e) = self.delete_backup(&instance.project, &instance.name, &backup.name).await {
                    tracing::warn!(instance = %instance.name, backup = %backup.name, "it has expired and cannot be deleted: {e}");
                }
            }
        }
        next
    }
}

impl Shared {
    pub(super) fn backup_files(&self) -> Files {
        Files::of(&self.dir)
    }

    /// The name after those that are taken, also by backups that are being made.
    async fn free_backup_name(&self, instance: Uuid) -> Result<String> {
        let taken = doc::list::<BackupDoc>(&*self.store, &backups_key(instance)).await?;
        let number = |name: String| name.strip_prefix(PREFIX)?.parse::<u32>().ok();
        let highest = taken.into_iter().filter_map(|(key, _)| number(key.name())).max();
        Ok(format!("{PREFIX}{}", highest.map_or(0, |highest| u64::from(highest) + 1)))
    }

    async fn remove_backup_file(&self, file: Uuid) {
        let files = self.backup_files();
        if let Err(e) = blocking(move || files.remove(file)).await {
            tracing::warn!("a deleted backup takes space until the next start: {e}");
        }
    }

    /// Removes all backups of an instance that is being deleted.
    pub(super) async fn remove_backups(&self, instance: Uuid) -> Result<()> {
        for (key, backup) in doc::list::<BackupDoc>(&*self.store, &backups_key(instance)).await? {
            self.store.txn(Txn::new().delete(key)).await?;
            self.remove_backup_file(backup.doc.file).await;
        }
        Ok(())
    }
}

fn view(name: String, document: &BackupDoc) -> Backup {
    Backup {
        name,
        created_at: document.created_at,
        expires_at: document.expires_at,
        instance_only: document.instance_only,
    }
}

fn exists(project: &str, instance: &str, backup: &str) -> Error {
    Error::Exists { what: "Backup", name: format!("{instance}/{backup}"), project: project.to_owned() }
}
