//! The agent inside a virtual machine, and how it gets there.

pub mod cpio;
