//! Backups: archives of an instance and its snapshots in LXD's form.

pub(crate) mod files;
pub(crate) mod index;
mod restored;

pub use files::Upload;
pub use restored::Restored;
pub(crate) use restored::SnapshotPart;
