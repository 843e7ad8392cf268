//! Removing an instance, whole or half made.

use std::path::Path;

use berth_store::{ErrorKind, Txn, doc, step};

use super::Shared;
use super::use_running::volume_kind;
use super::volumes::Volume;
use crate::documents::{
    InstanceDoc, VolatileDoc, idmap_key, instance_key, uuid_key, volatile_key, vsock_key, waste_key,
};
use crate::error::{Error, Result};
use crate::idmap;

impl Shared {
    /// Removes volume, logs, run directory and at last the documents of an instance that does not run. May be
    /// repeated after it failed or was cut off in the middle.
    pub(super) async fn remove(&self, project: &str, name: &str, document: &InstanceDoc) -> Result<()> {
        for (name, snapshot) in self.snapshots(document.uuid).await? {
            let volume = Volume::of_snapshot(document.kind, &snapshot);
            self.remove_snapshot(document.uuid, &name, &volume).await?;
        }
        self.remove_backups(document.uuid).await?;
        let volume = document.volume.simple().to_string();
        match self.pools.delete(&document.pool, volume_kind(document.kind), &volume).await {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let places = self.places(document.uuid);
        remove_tree(&places.run_dir).await?;
        remove_tree(&places.log_dir).await?;
        let volatile = doc::get::<VolatileDoc>(&*self.store, &volatile_key(document.uuid)).await?;
        let values = volatile.map(|v| v.doc.values).unwrap_or_default();
        let number = |key: &str| values.get(key).and_then(|value| value.parse::<u32>().ok());
        let mut txn = Txn::new()
            .delete(instance_key(project, name))
            .delete(volatile_key(document.uuid))
            .delete(uuid_key(document.uuid))
            .delete(waste_key(Some(document.volume)));
        let claims = [
            number("volatile.idmap.base").map(|base| idmap_key(idmap::slot(base))),
            number("volatile.vsock_id").map(vsock_key),
        ];
        txn = claims.into_iter().flatten().fold(txn, Txn::delete);
        match self.store.txn(txn.clone()).await {
            // Soon there is space: that of the volume.
            Err(e) if e.kind() == ErrorKind::NoSpace => {
                self.pools.settle().await;
                self.store.txn(txn).await?;
            }
            other => drop(other?),
        }
        Ok(())
    }
}

/// Removes a directory that only the daemon and its helpers write to.
pub(super) async fn remove_tree(path: &Path) -> Result<()> {
    match tokio::fs::remove_dir_all(path).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(format!("remove {}", path.display()))(e)),
        _ => {
            step::done("directory removed");
            Ok(())
        }
    }
}
