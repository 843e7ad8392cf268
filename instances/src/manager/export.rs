//! Writing an instance and its snapshots into an archive.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use berth_images::backup::format::{self, BackupKind, Index};
use berth_images::{BackupVolumes, Compression, Progress};
use berth_store::step;
use tokio::sync::oneshot;

use super::actor::Actor;
use super::snapshots::Work;
use super::volumes::{Volume, purpose};
use super::{Answer, Instances};
use crate::backups::index;
use crate::blocking::blocking;
use crate::error::{Error, Result};
use crate::projects::Permission;

/// Volumes that nobody changes until this is dropped, and what is to be said of them.
///
/// An instance that stands still obeys nobody so long. Of one that runs, these are a copy and the snapshots, which only
/// cannot be deleted.
#[derive(Debug)]
pub(super) struct Readable {
    kind: BackupKind,
    volume: PathBuf,
    snapshots: Vec<(String, PathBuf)>,
    index: Index,
    /// Its end tells the owner.
    _returned: oneshot::Sender<()>,
}

impl Instances {
    /// Writes a backup of an instance to `out`, a file or a pipe, and to nowhere else. When this is given up, nothing is
    /// left of it but what was written.
    pub async fn export(
        &self,
        project: &str,
        name: &str,
        instance_only: bool,
        compression: Compression,
        out: File,
    ) -> Result<()> {
        self.shared.projects.permits(project, Permission::Backups).await?;
        let silent: Arc<Progress> = Arc::new(|_| {});
        self.pack(project, name, instance_only, compression, out, &silent).await
    }

    pub(super) async fn pack(
        &self,
        project: &str,
        name: &str,
        instance_only: bool,
        compression: Compression,
        out: File,
        progress: &Arc<Progress>,
    ) -> Result<()> {
        let shown = progress.clone();
        let readable = self.work(project, name, |answer| Work::Read { instance_only, progress: shown, answer }).await?;
        let files = self.shared.backup_files();
        let text = format::write(&readable.index).map_err(Error::Runtime)?;
        let index = blocking(move || {
            let mut scratch = files.scratch()?;
            scratch.file.write_all(text.as_bytes()).map_err(Error::io("write the description of a backup"))?;
            Ok(scratch)
        })
        .await?;
        let volumes = BackupVolumes { kind: readable.kind, volume: &readable.volume, snapshots: &readable.snapshots };
        self.shared.images.backups().pack(volumes, index.path(), compression, out, &**progress).await?;
        step::done("backup packed");
        Ok(())
    }
}

impl Actor {
    pub(super) async fn let_read(
        &mut self,
        instance_only: bool,
        progress: &Arc<Progress>,
        mut answer: Answer<Readable>,
    ) {
        let copied = match self.live.is_some() {
            true => self.copy_for_backup(progress, answer.closed()).await.map(Some),
            false => Ok(None),
        };
        let copy = match copied {
            Ok(copy) => copy,
            // Whoever asked may have gone away.
            Err(e) => return drop(answer.send(Err(e))),
        };
        let (returned, end) = oneshot::channel();
        let own = copy.clone().unwrap_or_else(|| Volume::of(&self.document));
        drop(answer.send(self.readable(&own, instance_only, returned).await));
        let Some(copy) = copy else {
            let _ = end.await;
            return;
        };
        let (told, over) = oneshot::channel();
        self.readers.retain_mut(|reader| reader.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        self.readers.push(over);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let _ = end.await;
            shared.dispose_or_later(&copy).await;
            drop::<oneshot::Sender<()>>(told);
        });
    }

    async fn copy_for_backup(
        &mut self,
        progress: &Arc<Progress>,
        given_up: impl Future<Output = ()>,
    ) -> Result<Volume> {
        let own = Volume::of(&self.document);
        let copy = Volume { purpose: purpose(self.document.kind, true), ..own.fresh(&own.pool) };
        self.copy_volume(&own, &copy, progress, given_up).await?;
        Ok(copy)
    }

    async fn readable(&self, own: &Volume, instance_only: bool, returned: oneshot::Sender<()>) -> Result<Readable> {
        let instance = self.view.borrow().clone();
        let pool = self.shared.pools.get(&self.document.pool).await?;
        let profiles = self.shared.profiles.by_name(&self.project).await?;
        let profiles: Vec<_> = instance.profiles.iter().filter_map(|name| profiles.get(name)).collect();
        let index = index::of(&instance, instance_only, &pool, &profiles);
        let mut snapshots = Vec::new();
        for name in &index.snapshots {
            snapshots.push((name.clone(), self.path_of(&self.source(Some(name))?).await?));
        }
        Ok(Readable {
            kind: index::kind(instance.kind),
            volume: self.path_of(own).await?,
            snapshots,
            index,
            _returned: returned,
        })
    }

    pub(super) async fn path_of(&self, volume: &Volume) -> Result<PathBuf> {
        let volume = volume.reference();
        Ok(self.shared.pools.path(&volume.pool, volume.kind, &volume.name).await?)
    }

    /// Waits until nobody reads the snapshots for a backup any more.
    pub(super) async fn unread(&mut self) {
        for reader in std::mem::take(&mut self.readers) {
            let _ = reader.await;
        }
    }
}
