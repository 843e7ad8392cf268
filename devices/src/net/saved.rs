//! What a driver was told of its network card.

use serde::{Deserialize, Serialize};

use crate::saved::{Saved, StateError};

/// See the module's text. The link is up again with a new tap, and the driver is told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedNet {
    /// MAC address.
    pub mac: [u8; 6],
    /// MTU.
    pub mtu: u16,
}

impl Saved for SavedNet {
    const KIND: &'static str = "virtio-net";
    const VERSION: u32 = 1;
}

impl SavedNet {
    /// Whether this card can be the one that was saved. A copy of a machine has another MAC address: its driver goes on
    /// with the one it read until the guest is told.
    pub fn continue_from(&self, saved: &Self) -> Result<(), StateError> {
        StateError::if_changed("MTU of a network device", &saved.mtu, &self.mtu)
    }
}
