//! Backups of instances: what is in them, and having the helper write and read them.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};
use crate::helper::{self, Helper, Job};
use crate::pack::Compression;
use crate::progress::Progress;

pub mod format;

pub use format::{BackupKind, Description};

/// The volumes of an instance: its own and those of its snapshots.
#[derive(Debug, Clone, Copy)]
pub struct BackupVolumes<'a> {
    /// Kind of the instance.
    pub kind: BackupKind,
    /// Directory of its own volume.
    pub volume: &'a Path,
    /// Name and directory of each snapshot.
    pub snapshots: &'a [(String, std::path::PathBuf)],
}

/// Writes and reads backups with the confined helper.
#[derive(Debug, Clone)]
pub struct Backups {
    helper: Helper,
}

impl Backups {
    pub(crate) fn new(helper: Helper) -> Self {
        Self { helper }
    }

    /// Writes a backup to `out`, a file or pipe. Nobody may change the volumes meanwhile. `index` is a file with the text of
    /// its first member.
    pub async fn pack(
        &self,
        volumes: BackupVolumes<'_>,
        index: &Path,
        compression: Compression,
        out: File,
        progress: &Progress,
    ) -> Result<()> {
        let job = with(Job::new("backup-pack", helper::BACKUP), volumes)
            .option("--index", index)
            .option("--compression", compression.as_str())
            .stdin(out);
        self.helper.run(job, progress).await.map(drop)
    }

    /// Tells what is in a backup that somebody sent.
    pub async fn describe(&self, archive: &Path) -> Result<Description> {
        let job = Job::new("backup-describe", helper::BACKUP).option("--archive", archive);
        let description = self.helper.run(job, &|_| {}).await?;
        serde_json::from_value(description)
            .map_err(|e| Error::Job(format!("the helper describes a backup wrongly: {e}")))
    }

    /// Unpacks a backup into empty directories; they are on disk afterwards. Each snapshot and at last the instance has one of
    /// `idmaps`: LXD's `volatile.last_state.idmap`, or nothing. The disk of a virtual machine may have
    /// `disk_max` bytes. Gives the number of device nodes that were left out.
    pub async fn unpack(
        &self,
        archive: &Path,
        into: BackupVolumes<'_>,
        idmaps: &[String],
        disk_max: u64,
        progress: &Progress,
    ) -> Result<u64> {
        let mut job = with(Job::new("backup-unpack", helper::BACKUP), into)
            .option("--archive", archive)
            .option("--disk-max", disk_max.to_string());
        for idmap in idmaps {
            job = job.option("--idmap", idmap);
        }
        let summary = self.helper.run(job, progress).await?;
        Ok(summary["devices_left_out"].as_u64().unwrap_or(0))
    }
}

fn with(mut job: Job, volumes: BackupVolumes<'_>) -> Job {
    job = job.option("--kind", volumes.kind.as_str()).option("--volume", volumes.volume);
    for (name, place) in volumes.snapshots {
        job = job.option("--snapshot", name).option("--at", place);
    }
    job
}
