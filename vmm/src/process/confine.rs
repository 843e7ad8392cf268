//! What the process gives up before it looks at anything of the guest. Filters of system calls for each kind of
//! thread, and a user of its own, come on top of this.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use super::termination::close_from;
use berth_supervisor::handshake::HANDSHAKE_FD;

/// Gives up privileges and stray descriptors. Call before any thread is begun: capabilities belong to threads.
pub fn begin() -> io::Result<()> {
    close_from(HANDSHAKE_FD as u32 + 1)?;
    set_no_new_privs(true)?;
    // Opening /dev/kvm and working in the run directory needs ownership only.
    let nothing = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing })?;
    // A core file would hold what devices copied out of the guest.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // Every connection through the socket device takes a descriptor.
    let descriptors = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: descriptors.maximum, ..descriptors })?;
    Ok(())
}
