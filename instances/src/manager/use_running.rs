//! What is done with an instance without changing it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_containers::spec::IdMap;
use berth_guest::client;
use berth_guest::protocol::{ExecSpec, FileRequest};
use berth_storage::VolumeKind;

use super::Instances;
use crate::drivers::{ConsoleSession, ExecSession, FilesTarget, supervised};
use crate::error::{Error, Result};
use crate::model::{Instance, Kind, StateReport, Status};
use crate::nics::host_name_key;

impl Instances {
    /// Runs a program in a running instance.
    pub async fn exec(&self, project: &str, name: &str, spec: ExecSpec) -> Result<ExecSession> {
        let instance = self.running(project, name)?;
        if instance.status == Status::Frozen {
            return Err(Error::State(format!("instance \"{name}\" is frozen; unfreeze (start) it first")));
        }
        let places = self.shared.places(instance.uuid);
        self.shared.drivers.of(instance.kind).exec(&places.run_dir, spec).await
    }

    /// Attaches to the console of a running instance; with `force` takes it from another client.
    pub async fn console(&self, project: &str, name: &str, force: bool) -> Result<ConsoleSession> {
        let instance = self.running(project, name)?;
        let console = supervised::console(&self.shared.places(instance.uuid).run_dir, force).await;
        console.map_err(|error| match error {
            Error::InUse(_) => Error::InUse(format!(
                "another client is attached to the console of instance \"{name}\"; detach it or attach with --force"
            )),
            other => other,
        })
    }

    /// File that holds what the console showed; it may not exist yet.
    pub fn console_log(&self, project: &str, name: &str) -> Result<PathBuf> {
        Ok(self.shared.places(self.get(project, name)?.uuid).console_log())
    }

    /// Directory of an instance's log files; it may not exist yet.
    pub fn log_dir(&self, project: &str, name: &str) -> Result<PathBuf> {
        Ok(self.shared.places(self.get(project, name)?.uuid).log_dir)
    }

    /// Begins work on a file of an instance.
    pub async fn file(&self, project: &str, name: &str, request: FileRequest) -> Result<client::FileSession> {
        let instance = self.get(project, name)?;
        let places = self.shared.places(instance.uuid);
        let volume = self.shared.pools.path(&instance.pool, volume_kind(instance.kind), &instance.volume).await?;
        let base = instance.volatile.get("volatile.idmap.base").and_then(|base| base.parse().ok());
        let target = FilesTarget {
            run_dir: instance.is_running().then_some(&*places.run_dir),
            volume: &volume,
            idmap: base.map(|base| IdMap { base, size: crate::idmap::RANGE }),
            name,
        };
        let stream = self.shared.drivers.of(instance.kind).files(&target).await?;
        client::file(stream, request).await.map_err(|e| match e {
            client::ClientError::Guest(e) => Error::Guest(e),
            other => Error::Runtime(format!("cannot work on files of instance \"{name}\": {other}")),
        })
    }

    /// What an instance uses now.
    pub async fn state(&self, project: &str, name: &str) -> Result<StateReport> {
        let mut report = self.activity(project, name).await?;
        let (pool, kind) = (&report.instance.pool, volume_kind(report.instance.kind));
        report.root_usage = self.shared.pools.usage(pool, kind, &report.instance.volume).await.ok();
        Ok(report)
    }

    /// The same without the space of its root volume, which takes long to find out where a pool has to look at
    /// every file.
    pub async fn activity(&self, project: &str, name: &str) -> Result<StateReport> {
        let instance = self.get(project, name)?;
        let guest = if instance.is_running() && instance.status != Status::Frozen {
            let run_dir = self.shared.places(instance.uuid).run_dir;
            // An instance may end while it is asked: then it simply has nothing to tell.
            self.shared.drivers.of(instance.kind).guest_state(&run_dir).await.unwrap_or_else(|e| {
                tracing::debug!(instance = name, "no state from the guest: {e}");
                None
            })
        } else {
            None
        };
        let host_names = host_names(&instance);
        Ok(StateReport { instance, guest, root_usage: None, host_names })
    }

    fn running(&self, project: &str, name: &str) -> Result<std::sync::Arc<Instance>> {
        let instance = self.get(project, name)?;
        if instance.is_running() {
            Ok(instance)
        } else {
            Err(Error::State(format!("instance \"{name}\" is not running; start it first")))
        }
    }
}

/// Kind of the volume that holds an instance.
pub(crate) fn volume_kind(kind: Kind) -> VolumeKind {
    match kind {
        Kind::Container => VolumeKind::Container,
        Kind::VirtualMachine => VolumeKind::VirtualMachine,
    }
}

/// Host link of each interface by its name inside.
fn host_names(instance: &Instance) -> BTreeMap<String, String> {
    let nics = crate::plan::nics(&instance.expanded_devices, instance.kind).unwrap_or_default();
    nics.into_iter()
        .filter_map(|(device, nic)| {
            let host = instance.volatile.get(&host_name_key(&device))?.clone();
            Some((nic.name.unwrap_or(device), host))
        })
        .collect()
}
