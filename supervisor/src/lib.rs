//! What the two processes that outlive the daemon have in common.
//!
//! `berth-container monitor` and `berth-vmm run` each hold one running instance. Both are started by the
//! daemon, survive its death and are found again by the next one. This crate is their shared half:
//!
//! - [`transport`]: JSON messages with file descriptors over `SOCK_SEQPACKET`, blocking and for tokio;
//! - [`handshake`]: how the daemon hands over the specification and its descriptors, and learns that the instance runs;
//! - [`protocol`]: what the control socket understands afterwards;
//! - [`console`]: ring buffer, log file and the single attached client of a console;
//! - [`record`]: how a supervisor is recognised after a restart of the daemon, and how the reason of its end is kept.

pub mod console;
pub mod handshake;
pub mod protocol;
pub mod record;
pub mod transport;
