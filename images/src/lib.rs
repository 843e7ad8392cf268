//! The image store: import, export, unpacking, disks for virtual machines, boot files, and building.

pub mod boot;
pub mod confine;
pub mod error;
pub mod jobs;
pub mod metadata;
pub mod progress;
pub mod unpack;
pub mod wire;

pub use error::{Error, ErrorKind, Result};
pub use progress::{Progress, ProgressEvent};
