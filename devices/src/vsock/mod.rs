//! virtio-vsock in user space, mapped to unix sockets.
//!
//! * A guest's connect to port N of the host (CID 2) goes to the unix socket `<path>_N`.
//! * A host program connects to `<path>`, says `CONNECT <port>\n`, reads `OK <number>\n`, and is then connected to that
//!   port of the guest. (Firecracker's protocol.)
//!
//! ```text
//!   host dials:   line ──▶ REQUEST ──▶ (guest) RESPONSE ──▶ "OK n" ──▶ established
//!   guest dials:  REQUEST ──▶ connect(<path>_N) ──▶ RESPONSE ──▶ established     refused: RST
//!   either:       established ──▶ SHUTDOWN(send) = half closed ──▶ both halves closed ──▶ RST ──▶ gone
//! ```
//!
//! A device that continues a saved one has none of its connections: the driver is sent a transport reset event, on which
//! it ends them and reads its context id again.
//!
//! Back-pressure: what the guest sends is limited by the credit it gets, 128 KiB for each
//! connection beyond what the unix socket takes; what the host sends stays in its socket until the guest has credit
//! and buffers for it. Answers to packets that belong to nobody are queued up to a cap; then the guest's sending queue
//! is not read on.

mod config;
mod connection;
mod device;
mod engine;
mod mux;
mod packet;
mod saved;
#[cfg(test)]
mod saved_tests;
#[cfg(test)]
mod tests;

pub use config::VsockConfig;
pub use device::Vsock;

/// System calls of the device's thread beside those of every device.
pub(crate) const SYSCALLS: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_socket,
];
