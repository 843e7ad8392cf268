//! What a guest end serves to the host: exec, files and state.
//!
//! One protocol serves both kinds of instance. In a virtual machine `berth-agent` speaks it over vsock; for a
//! container a helper that has become container root speaks its file part over a unix socket pair. The
//! host's half is [`client`].
//!
//! A connection carries one request. The first frame is a JSON [`protocol::Request`]; what follows depends on
//! the request and is told at its variants.

pub mod client;
pub mod files;
pub mod frame;
pub mod protocol;
pub mod state;
