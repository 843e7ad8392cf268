//! virtio-net on a tap device.

mod config;
mod device;
mod engine;
mod receive;
mod saved;
mod tap;
#[cfg(test)]
mod tap_tests;
#[cfg(test)]
mod tests;
mod transmit;

pub use config::{NetConfig, NetLimits};
pub use device::{Net, NetRemote};
pub(crate) use tap::TUNSETOFFLOAD;

/// System calls of the card's thread beside those of every device.
pub(crate) const SYSCALLS: &[libc::c_long] = &[libc::SYS_ioctl, libc::SYS_readv, libc::SYS_writev];
