//! The agent inside a virtual machine, and how it gets there.
//!
//! [`initrd`] is for the host: it makes the archive that is appended to an image's initrd. [`server`] is what the
//! agent serves; `src/main.rs` is the program itself.

pub mod cpio;
pub mod initrd;
pub mod server;
