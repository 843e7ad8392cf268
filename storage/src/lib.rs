//! Storage: pools, and the volumes of instances in them.
//!
//! A pool is a document in the store and a place that a driver looks after. A volume is a directory: that of a
//! container holds `rootfs/`, that of a virtual machine `root.img`. A volume is never seen half-made: it is filled as a
//! [`PendingVolume`] and appears when it is committed. It is never seen half-removed either: removing one moves it
//! aside at once, and its files go in the background. A snapshot is a volume too, with the content that another had.

mod btrfs;
mod config;
mod copy;
mod dir;
mod driver;
mod error;
mod layout;
mod loop_device;
mod pools;
mod reaper;
mod tree;
mod volume;

pub use config::{Config, parse_size};
pub use copy::CopyProgress;
pub use driver::{DRIVERS, Resources};
pub use error::StorageError;
pub use pools::{Pool, Pools};
pub use volume::{PendingVolume, VolumeKind, VolumeRef};
