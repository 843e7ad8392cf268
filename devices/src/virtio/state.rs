//! The status machine of a virtio device.

/// Status, features and queues of a device as its driver sets them up.
pub struct VirtioState {}
