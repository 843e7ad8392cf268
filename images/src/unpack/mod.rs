//! Unpacking what somebody sent. Everything here runs confined (see [`crate::confine`]) and is handed only what it
//! may touch.

pub mod archive;
pub mod budget;
pub mod check;
pub mod decode;
pub mod owners;
pub mod pax;
pub mod squash;
mod stream;
pub mod tarball;
pub mod tool;
pub mod tree;
