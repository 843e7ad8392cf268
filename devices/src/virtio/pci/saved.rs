//! The PCI function of a virtio device as saved state.

use serde::{Deserialize, Serialize};

use super::common::Common;
use super::device::VirtioPci;
use crate::pci::msix::SavedMsix;
use crate::saved::{Saved, Sections, StateError};

/// Registers and vectors.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedFunction {
    config: Vec<u8>,
    msix: SavedMsix,
    common: Common,
    /// Of the configuration, then of each queue.
    vectors: Vec<u16>,
    isr: u8,
}

impl Saved for SavedFunction {
    const KIND: &'static str = "virtio-pci";
    const VERSION: u32 = 1;
}

impl VirtioPci {
    pub(super) fn save_function(&mut self, sections: &mut Sections) -> Result<(), StateError> {
        // First, because it holds the device.
        self.state.save(sections)?;
        let (vectors, isr) = self.line.saved();
        let (config, msix, common) = (self.config.saved(), self.msix.saved(), self.common.clone());
        sections.add(self.state.name(), &SavedFunction { config, msix, common, vectors, isr })
    }

    pub(super) fn restore_function(&mut self, sections: &mut Sections) -> Result<(), StateError> {
        let saved: SavedFunction = sections.take(self.state.name())?;
        let foreign = |what| Err(StateError::payload::<SavedFunction>(self.state.name(), what));
        if !self.config.restore(&saved.config) {
            return foreign("its configuration space is that of another device");
        }
        if !self.msix.restore(&saved.msix) || !self.line.restore(&saved.vectors, saved.isr) {
            return foreign("its interrupt vectors are those of another device");
        }
        self.common = saved.common;
        // Interrupts work before the device begins to raise them.
        self.sync_msix();
        self.state.restore(sections)?;
        self.sync_kicks();
        // What has changed meanwhile is news to the driver.
        let looked = self.state.look_again();
        looked.map_err(|error| {
            StateError::payload::<SavedFunction>(self.state.name(), format!("the device cannot be looked at: {error}"))
        })
    }
}
