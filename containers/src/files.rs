//! The file server's process: it becomes the container's root, so that the kernel itself applies links, ids, modes
//! and quotas as to a program inside.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use berth_supervisor::transport::Endpoint;
use rustix::process::{DumpableBehavior, Signal};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::mounts::stage::open_root;
use crate::spec::IdMap;
use crate::{idmap, init, process, sys};

/// Comes with two descriptors: the pidfd of init and the client's stream.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Join;

/// `berth-container files-join`: serves one conversation inside a running container.
pub fn join() -> Result<()> {
    // SAFETY: the helper was started with this descriptor and touches it nowhere else.
    let socket = Endpoint::from_fd(unsafe { sys::take_fd(process::HELPER_FD) }.context("take the instructions")?);
    protect()?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie the helper to the monitor")?;
    let (Join, fds) = socket
        .recv()
        .context("read the instructions")?
        .ok_or_else(|| Error::Handshake("the monitor is gone".into()))?;
    let [container, stream]: [OwnedFd; 2] =
        fds.try_into().map_err(|_| Error::Handshake("two descriptors were expected".into()))?;
    sys::setns(container.as_fd(), libc::CLONE_NEWUSER | libc::CLONE_NEWNS).context("enter the container")?;
    init::become_root()?;
    // Entering the container has undone it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie the helper to the monitor")?;
    serve(stream)
}

/// `berth-container files`: serves one conversation on descriptor 3 in the root of a container that does not run.
pub fn serve_stopped(rootfs: &Path, map: IdMap) -> Result<()> {
    // SAFETY: the helper was started with this descriptor and touches it nowhere else.
    let stream = unsafe { sys::take_fd(process::HELPER_FD) }.context("take the connection")?;
    protect()?;
    let tree = open_root(rootfs)?;
    tree.set(libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC)?;
    let userns = idmap::bare_namespace(map)?;
    tree.map_ids(userns.as_fd())?;
    rustix::process::fchdir(&tree).context("enter the container's root")?;
    rustix::process::chroot(".").context("enter the container's root")?;
    drop(tree);
    sys::setns(userns.as_fd(), libc::CLONE_NEWUSER).context("become the container's root")?;
    serve(stream)
}

fn protect() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context("protect the helper")
}

fn serve(stream: OwnedFd) -> Result<()> {
    init::become_root()?;
    protect()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    berth_guest::files::serve(&mut UnixStream::from(stream), Path::new("/")).context("serve files")
}
