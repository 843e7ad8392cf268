//! `berth-container proxy`: passes connections on between host and container until it is killed.
//!
//! It gets sockets that listen already and goes to the side where it connects. In the container it is one of its
//! users, so that it reaches nothing that a program inside could not reach.

mod datagrams;
pub(crate) mod sockets;
mod streams;

use std::os::fd::{AsFd, OwnedFd};

use berth_supervisor::transport::Endpoint;
use rustix::process::{DumpableBehavior, Gid, Signal, Uid};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::spec::{Address, Proxy, Side};
use crate::{process, sys};

/// What the helper is to do. Descriptors: user, mount and network namespace of the container, then a socket for each
/// address to listen on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Instructions {
    pub(crate) proxy: Proxy,
}

/// The helper's main.
pub fn main() -> Result<()> {
    // SAFETY: the helper was started with this descriptor and touches it nowhere else.
    let socket = Endpoint::from_fd(unsafe { sys::take_fd(process::HELPER_FD) }.context("take the instructions")?);
    protect()?;
    let (Instructions { proxy }, mut fds): (Instructions, Vec<OwnedFd>) = socket
        .recv()
        .context("read the instructions")?
        .ok_or_else(|| Error::Handshake("the monitor is gone".into()))?;
    if fds.len() != 3 + proxy.listen.len() {
        return Err(Error::Handshake("descriptors are missing".into()));
    }
    let listeners = fds.split_off(3);
    if proxy.bind == Side::Host {
        let kinds = [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET];
        for (namespace, kind) in fds.iter().zip(kinds) {
            sys::setns(namespace.as_fd(), kind).context("enter the container")?;
        }
    }
    drop(fds);
    rustix::thread::set_thread_groups(&[]).context("drop groups")?;
    let (uid, gid) = (Uid::from_raw(proxy.uid), Gid::from_raw(proxy.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).with_context(|| format!("become group {}", proxy.gid))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).with_context(|| format!("become user {}", proxy.uid))?;
    // Entering the user namespace and the change of ids have undone both.
    protect()?;
    serve(&proxy, listeners)
}

fn protect() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context("protect the helper")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie the helper to the monitor")
}

fn serve(proxy: &Proxy, listeners: Vec<OwnedFd>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("start the proxy")?.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            let target = proxy.target(index).clone();
            match &proxy.listen[index] {
                Address::Udp(_) => {
                    let socket = datagrams::Listener::new(listener, &target).context("watch a socket")?;
                    tasks.spawn(socket.serve());
                }
                Address::Tcp(_) | Address::Unix(_) => {
                    let socket = streams::Listener::new(listener, &proxy.listen[index], target, proxy.proxy_protocol);
                    tasks.spawn(socket.context("watch a socket")?.serve());
                }
            }
        }
        // They only end by panics.
        while tasks.join_next().await.is_some() {}
        Err(Error::Init("the proxy has ended".into()))
    })
}
