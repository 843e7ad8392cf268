//! How an instance is handed to its supervisor.
//!
//! The daemon makes a [`crate::transport::Endpoint`] pair and starts the supervisor with one end as descriptor
//! [`HANDSHAKE_FD`]. Then:
//!
//! 1. daemon → [`Start`], with all descriptors the specification refers to by [`FdIndex`];
//! 2. supervisor → [`Progress::Created`], for a container with its network namespace as descriptor 0;
//! 3. daemon (which now moves network devices in) → [`Proceed`];
//! 4. supervisor → [`Progress::Running`]; from then on the control socket serves, and this connection is closed.
//!
//! At any point the supervisor may answer [`Progress::Failed`] and end, leaving nothing behind. If the daemon
//! dies before step 4 the supervisor sees the end of the connection, undoes everything and ends.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use serde::{Deserialize, Serialize};

use crate::transport::Endpoint;

/// Descriptor on which a supervisor finds its end of the handshake.
pub const HANDSHAKE_FD: RawFd = 3;
/// Version of handshake and control protocol.
pub const PROTOCOL_VERSION: u32 = 1;

/// Place of a descriptor among those sent with [`Start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FdIndex(pub u32);

/// First message. `S` is the specification type of the driver.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start<S> {
    /// [`PROTOCOL_VERSION`] of the daemon.
    pub protocol: u32,
    /// What to run.
    pub spec: S,
}

/// The daemon's leave to let the instance run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Proceed;

/// What the supervisor reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Everything is made; nothing of the guest has run yet.
    Created {
        /// Host process id of the container's init; `None` for a virtual machine.
        init_pid: Option<u32>,
    },
    /// The guest runs and the control socket serves.
    Running,
    /// It did not come so far; nothing is left behind.
    Failed {
        /// Object, reason and next step.
        message: String,
    },
}

/// The supervisor's end of the handshake. Call once, first thing in `main`, while no other code owns
/// descriptor [`HANDSHAKE_FD`]. Fails if nothing is there.
pub fn take_endpoint() -> io::Result<Endpoint> {
    let flags = rustix::fs::fcntl_getfl(borrowed_handshake_fd());
    if flags.is_err() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "this program is started by berthd, which hands it a socket as descriptor 3",
        ));
    }
    // SAFETY: the descriptor is open (checked above) and by contract nothing else in this process owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(HANDSHAKE_FD) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Endpoint::from_fd(fd))
}

fn borrowed_handshake_fd() -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: only used to ask whether the number is an open descriptor; -1 is not among the values.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(HANDSHAKE_FD) }
}
