//! System containers: the runtime behind `berth-container`.
//!
//! `berth-container monitor` is started by the daemon for each container, makes it and outlives the daemon. It is
//! a single thread around `poll(2)`; what must run inside the container (programs, the file server) is a fresh
//! execution of the same binary from a read-only handle, never a fork of the daemon.
//!
//! - [`spec`]: what the daemon hands over;
//! - [`monitor`]: makes the container, serves its control socket, cleans up;
//! - [`exec`], [`files`]: the helpers that enter it;
//! - [`devices`]: the helper that gives it devices;
//! - [`templates`]: files that its first process writes into its root;
//! - [`proxy`]: the helper that passes connections on;
//! - [`cgroup`]: both cgroup versions.
//!
//! The container's root is an unprivileged user of the host in every respect: user namespace, cgroup delegation
//! and [`seccomp`] carry that without a security module.

pub mod cgroup;
pub mod devices;
pub mod error;
pub mod exec;
pub mod files;
pub mod idmap;
mod init;
pub mod monitor;
mod mounts;
mod process;
pub mod proxy;
mod pty;
mod rlimits;
pub mod seccomp;
pub mod spec;
mod sys;
pub mod templates;
mod users;

/// Removes what a monitor that was killed left behind: its cgroups, with any process still in them. The container
/// itself dies with its monitor. Does nothing if there is nothing left.
pub fn clean_up(uuid: &str) -> Result<(), error::Error> {
    spec::check_uuid(uuid)?;
    cgroup::Cgroups::discover(uuid)?.remove()
}
