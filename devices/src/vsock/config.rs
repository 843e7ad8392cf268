//! What a socket device is.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;

/// What a socket device is.
#[derive(Debug)]
pub struct VsockConfig {
    /// Context id of the guest, 3 or more.
    pub cid: u32,
    /// Listens on the path where host programs connect and say `CONNECT <port>\n`; made non-blocking here. The machine
    /// binds it, before it gives up the rights to.
    pub listener: UnixListener,
    /// A guest's connect to port N of the host goes to the unix socket `<path>_N`. Must be reachable from the
    /// confined process.
    pub path: PathBuf,
}
