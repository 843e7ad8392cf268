//! Everything of the host's that the process of the guest works with. It is opened here, by the process that may;
//! the other one opens nothing by path.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use berth_devices::vsock::VsockConfig;
use berth_guest::protocol::{Identity, READY_PORT};
use berth_supervisor::console::Console;
use berth_supervisor::protocol::CONTROL_SOCKET;
use berth_supervisor::transport::Listener;
use kvm_ioctls::Kvm;

use super::agent::{AgentPort, Past};
use super::confine::VISIBLE;
use super::handshake::{self, Descriptors};
use super::{ProcessError, io_error};
use crate::kvm;
use crate::machine::Plan;
use crate::spec::{Heir, OriginSpec, VmSpec};

/// Directory of the sockets that connect host and guest, in the run directory. It is all of the host's files that
/// the process of the guest sees, under the same name.
pub const VSOCK_DIR: &str = VISIBLE;
/// The socket in it through which host programs reach the guest; one that listens for the guest has a port behind its name.
pub const VSOCK_SOCKET: &str = "socket";

/// See the module's text.
pub struct Resources {
    pub kvm: Kvm,
    pub console: Console,
    pub control: Listener,
    pub agent: Option<AgentPort>,
    pub plan: Plan,
}

impl Resources {
    /// Opens and makes all of them; the current directory is the run directory.
    pub fn open(spec: &VmSpec, fds: Descriptors) -> Result<Self, ProcessError> {
        let kvm = kvm::open()?;
        let log = &spec.console_log;
        let console = Console::new(log).map_err(io_error(format!("open the console's log {}", log.display())))?;
        let (vsock, agent) = match spec.vsock_cid {
            Some(cid) => {
                let (config, agent) =
                    sockets(cid, spec.user, past(spec)).map_err(io_error("listen for the guest's sockets"))?;
                (Some(config), Some(agent))
            }
            None => (None, None),
        };
        let plan = handshake::plan(spec, fds, vsock)?;
        let control = Listener::bind(Path::new(CONTROL_SOCKET)).map_err(io_error("make the control socket"))?;
        Ok(Self { kvm, console, control: control.leave_file(), agent, plan })
    }
}

/// Where the guest of a machine comes from.
fn past(spec: &VmSpec) -> Past {
    match spec.origin {
        OriginSpec::Boot { .. } => Past::Booted,
        OriginSpec::Saved { heir: Heir::Itself, .. } => Past::Saved,
        OriginSpec::Saved { heir: Heir::Another, .. } => Past::AnothersState(Identity {
            hostname: spec.name.clone(),
            hwaddrs: spec.nics.iter().map(|nic| nic.hwaddr).collect(),
        }),
    }
}

/// Makes the directory of sockets anew, with ours in it. Only root and `user` reach it.
fn sockets(cid: u32, user: u32, past: Past) -> io::Result<(VsockConfig, AgentPort)> {
    let directory = Path::new(VSOCK_DIR);
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir(directory)?;
    chown(directory, None, Some(user))?;
    std::fs::set_permissions(directory, Permissions::from_mode(0o710))?;
    let path = directory.join(VSOCK_SOCKET);
    let listener = UnixListener::bind(&path)?;
    let agent_path = directory.join(format!("{VSOCK_SOCKET}_{READY_PORT}"));
    let agent = UnixListener::bind(&agent_path)?;
    // To connect is to write.
    chown(&agent_path, None, Some(user))?;
    std::fs::set_permissions(&agent_path, Permissions::from_mode(0o660))?;
    Ok((VsockConfig { cid, listener, path }, AgentPort::new(agent, past)?))
}
