//! What the container uses, and its network interfaces.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use berth_guest::protocol::{GuestState, Interface};

use super::Container;
use crate::error::{Context, Result};
use crate::sys;

/// Longest list of interfaces that is read.
const NETWORK_MAX: usize = 4 * 1024 * 1024;

/// A child that looks at the container's interfaces.
#[derive(Debug)]
pub(super) struct NetworkQuery {
    pub(super) stream: UnixStream,
    told: Vec<u8>,
}

impl NetworkQuery {
    /// Forks the child; returns its pidfd too, for it to be reaped.
    pub(super) fn start(container: &Container) -> Result<(Self, OwnedFd)> {
        let network = container.init().network()?;
        let (ours, mut theirs) = UnixStream::pair().context("make a socket pair")?;
        // It enters nothing but the network namespace, so it may be a plain copy of the monitor.
        let body = || {
            let told = sys::setns(network.as_fd(), libc::CLONE_NEWNET)
                .and_then(|()| berth_guest::state::network())
                .and_then(|network| Ok(serde_json::to_vec(&network)?));
            i32::from(told.and_then(|told| theirs.write_all(&told)).is_err())
        };
        // SAFETY: the monitor has a single thread.
        let child = unsafe { sys::fork(0, None, body) }.context("look at the container's network")?;
        ours.set_nonblocking(true).context("watch a helper")?;
        Ok((Self { stream: ours, told: Vec::new() }, child.pidfd))
    }

    /// Reads on; the interfaces when all are there.
    pub(super) fn on_ready(&mut self) -> Option<BTreeMap<String, Interface>> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(length) if length > 0 && self.told.len() < NETWORK_MAX => {
                self.told.extend_from_slice(&buffer[..length]);
                None
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            // Of a container that is just ending there may be nothing to tell.
            Ok(_) | Err(_) => Some(serde_json::from_slice(&self.told).unwrap_or_default()),
        }
    }
}

/// All figures.
pub(super) fn collect(container: &Container, network: BTreeMap<String, Interface>) -> GuestState {
    let usage = container.cgroups.usage();
    let uname = rustix::system::uname();
    let os = [
        ("hostname".to_owned(), container.spec.hostname.clone()),
        ("kernel_version".to_owned(), uname.release().to_string_lossy().into_owned()),
    ];
    GuestState {
        cpu_ns: usage.cpu_ns,
        memory_usage: usage.memory,
        memory_peak: usage.memory_peak,
        memory_total: usage.memory_limit,
        swap_usage: usage.swap,
        processes: usage.processes,
        disk_usage: 0,
        network,
        os: os.into(),
        detail: container.cgroups.detail(),
    }
}
