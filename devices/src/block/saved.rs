//! What a driver was told of its disk.

use serde::{Deserialize, Serialize};

use super::config::Geometry;
use crate::saved::{Saved, StateError};

/// See the module's text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedBlock {
    sectors: u64,
    readonly: bool,
}

impl Saved for SavedBlock {
    const KIND: &'static str = "virtio-blk";
    const VERSION: u32 = 1;
}

impl SavedBlock {
    /// Of a disk as it is.
    pub fn of(geometry: &Geometry) -> Self {
        Self { sectors: geometry.sectors(), readonly: geometry.readonly }
    }

    /// Whether this disk can be the one that was saved, which may have grown; returns how long its driver takes it for.
    pub fn continue_from(&self, saved: &Self) -> Result<u64, StateError> {
        StateError::if_changed("read-only mode of a disk", &saved.readonly, &self.readonly)?;
        if self.sectors < saved.sectors {
            StateError::if_changed("size of a disk in sectors", &saved.sectors, &self.sectors)?;
        }
        Ok(saved.sectors)
    }
}
