//! Changing devices of a machine that runs.

use std::collections::BTreeMap;
use std::io;

use berth_devices::block::BlockRemote;
use berth_devices::net::NetRemote;

use crate::settings::Change;

/// The devices that can be changed, by id.
#[derive(Default)]
pub struct Remotes {
    /// Disks.
    pub disks: BTreeMap<String, BlockRemote>,
    /// Network devices.
    pub nics: BTreeMap<String, NetRemote>,
}

/// Why devices were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// See the message.
    #[error("the size of a disk cannot be found out: {0}; restart the machine to use it")]
    Size(io::Error),
    /// See the message.
    #[error("{what} \"{id}\" cannot be changed: {source}")]
    Failed {
        /// Kind of device.
        what: &'static str,
        /// Its id.
        id: String,
        /// Why.
        source: io::Error,
    },
}

impl Remotes {
    /// Makes `change`, as far as the devices are there; the others come with the next start. Fails only if the thread of a
    /// device is gone.
    pub fn change(&self, change: &Change) -> Result<(), ChangeError> {
        for (id, disk) in &self.disks {
            let settings = change.disks.get(id);
            settings.map_or(Ok(()), |settings| disk.limit(settings.limits())).map_err(failed("disk", id))?;
        }
        for (id, nic) in &self.nics {
            let settings = change.nics.get(id);
            settings.map_or(Ok(()), |settings| nic.limit(settings.limits())).map_err(failed("network device", id))?;
        }
        Ok(())
    }
}

fn failed(what: &'static str, id: &str) -> impl FnOnce(io::Error) -> ChangeError {
    let id = id.to_owned();
    move |source| ChangeError::Failed { what, id, source }
}

#[cfg(test)]
mod tests {
    use berth_devices::block::{Block, BlockConfig, BlockLimits};
    use berth_devices::worker::no_setup;

    use super::*;
    use crate::settings::{DiskSettings, NicSettings};

    #[test]
    fn what_is_there_is_changed() {
        let (name, file) = ("t".to_owned(), tempfile::tempfile().unwrap());
        let config = BlockConfig { name, file, readonly: false, serial: "root".into(), limits: BlockLimits::default() };
        let block = Block::new(config, &no_setup()).unwrap();
        let remotes = Remotes { disks: [("root".to_owned(), block.remote())].into(), ..Remotes::default() };
        let mut change = Change::default();
        change.nics.insert("eth0".into(), NicSettings::default());
        change.disks.insert("root".into(), DiskSettings::default());
        remotes.change(&change).unwrap();
        drop(block);
        assert!(matches!(remotes.change(&change), Err(ChangeError::Failed { what: "disk", .. })));
        change.disks.clear();
        remotes.change(&change).unwrap();
    }
}
