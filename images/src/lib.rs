//! The image store: import, export, unpacking, disks for virtual machines, boot files, and building; and the archives of backups.
//!
//! [`Images`] is what the daemon uses. It never looks into a file somebody sent: that is done by the helper
//! `berth-image` ([`jobs`]), which confines itself first ([`confine`]).

mod aliases;
pub mod backup;
pub mod boot;
mod boot_files;
mod claims;
pub mod confine;
mod error;
mod helper;
mod import;
mod info;
pub mod jobs;
pub mod metadata;
mod origin;
pub mod pack;
mod progress;
mod provide;
mod publish;
pub mod seed;
mod staging;
mod store;
pub mod unpack;
pub mod wire;

pub use backup::{BackupKind, BackupVolumes, Backups};
pub use error::{Error, Result};
pub use info::{
    AliasInfo, BootFiles, BuildRequest, ExportFiles, ImageInfo, ImageUpdate, ImportFiles, ImportOptions, Kinds,
    Programs, RootfsName,
};
pub use origin::Origin;
pub use pack::Compression;
pub use progress::{Progress, ProgressEvent};
pub use publish::{PublishRequest, PublishSource};
pub use staging::Staging;
pub use store::Images;
