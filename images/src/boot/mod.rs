//! Reading kernel and initial RAM disk out of a disk image.
//!
//! Everything here parses what a guest wrote; it runs in a process without rights ([`crate::jobs::boot`]).

pub mod bzimage;
pub mod disk;
pub mod extlinux;
pub mod fat;
pub mod find;
pub mod grub;
pub mod modules;
pub mod select;
pub mod table;
pub mod version;
