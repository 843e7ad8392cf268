//! What a driver was told of its socket device.

use serde::{Deserialize, Serialize};

use crate::saved::Saved;

/// See the module's text. The context id may be another one when the device is restored: the transport reset makes the
/// driver read it again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedVsock {
    /// Context id.
    pub cid: u64,
}

impl Saved for SavedVsock {
    const KIND: &'static str = "virtio-vsock";
    const VERSION: u32 = 1;
}
