//! virtio-blk on a raw file.

mod config;
mod device;
mod engine;
mod gate;
mod lock;
mod request;
mod saved;
#[cfg(test)]
mod tests;

pub use config::{BlockConfig, BlockLimits};
pub use device::{Block, BlockRemote};

/// System calls of the disk's thread beside those of every device.
pub(crate) const SYSCALLS: &[libc::c_long] =
    &[libc::SYS_fallocate, libc::SYS_fdatasync, libc::SYS_preadv, libc::SYS_pwrite64, libc::SYS_pwritev];
