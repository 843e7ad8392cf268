//! `berth-container devices`: gives a container devices of the host and takes them away, before its init runs and
//! later.
//!
//! The helper opens and marks what is wanted as the host's root, takes it through a copy of its mount namespace that
//! belongs to the container's users, which locks the marks ([`crate::mounts`]), and only then enters the container,
//! whose root it becomes: inside, it can do no more than any program there.

mod inside;
mod outside;
mod table;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use berth_supervisor::transport::Endpoint;
use rustix::process::{DumpableBehavior, Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::spec::{Address, ContainerSpec, Device, IdMap, Side, SocketOwner};
use crate::{idmap, init, process, proxy, sys};

/// What the helper is to do. Descriptors: the mount, user and network namespaces of init.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Work {
    /// Host process id of init, which the monitor keeps from being used again.
    init: i32,
    idmap: Option<IdMap>,
    /// Devices to be taken away.
    detach: BTreeMap<String, Placed>,
    /// Devices to be given.
    attach: BTreeMap<String, Device>,
    /// Sockets to be made, by proxy.
    listen: BTreeMap<String, Vec<Listening>>,
}

/// A socket that a proxy listens on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Listening {
    pub(crate) side: Side,
    pub(crate) address: Address,
    pub(crate) owner: SocketOwner,
}

/// A device in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    target: String,
    /// Number of the mount, which the container may have moved.
    mount: u64,
    /// Numbers of its file system, as in the mount table.
    device: String,
    /// The target was made for it.
    made: bool,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The sockets of one proxy, as descriptors in the order of its list. More follows.
    Listening(String),
    /// All is done. What was not there and not required is missing from the list.
    Done(BTreeMap<String, Placed>),
    /// Nothing is done. Devices that had to be put back may be other mounts now.
    Failed { message: String, placed: BTreeMap<String, Placed> },
}

impl Work {
    /// From the devices that are `placed` by the specification `old` to those of `new`.
    pub(crate) fn between(
        old: &BTreeMap<String, Device>,
        placed: &BTreeMap<String, Placed>,
        new: &BTreeMap<String, Device>,
        listen: BTreeMap<String, Vec<Listening>>,
    ) -> Self {
        let stays = |name: &str| placed.contains_key(name) && old.get(name) == new.get(name);
        let gone = placed.iter().filter(|(name, _)| !stays(name));
        let wanted = new.iter().filter(|(name, _)| !stays(name));
        Self {
            detach: gone.map(|(name, placed)| (name.clone(), placed.clone())).collect(),
            attach: wanted.map(|(name, device)| (name.clone(), device.clone())).collect(),
            listen,
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.detach.is_empty() && self.attach.is_empty() && self.listen.is_empty()
    }

    /// The sockets that a proxy is to get.
    pub(crate) fn sockets_of(&self, proxy: &str) -> &[Listening] {
        self.listen.get(proxy).map_or(&[], Vec::as_slice)
    }

    /// What is placed once it is done.
    pub(crate) fn applied(
        &self,
        placed: &BTreeMap<String, Placed>,
        new: BTreeMap<String, Placed>,
    ) -> BTreeMap<String, Placed> {
        let stays = placed.iter().filter(|(name, _)| !self.detach.contains_key(*name));
        stays.map(|(name, placed)| (name.clone(), placed.clone())).chain(new).collect()
    }

    /// Starts the helper; returns its pidfd and the socket on which it tells its [`Outcome`].
    pub(crate) fn start(
        &self,
        binary: &process::OwnBinary,
        spec: &ContainerSpec,
        init: Pid,
    ) -> Result<(OwnedFd, Endpoint)> {
        let work = Self { init: init.as_raw_nonzero().get(), idmap: Some(spec.idmap), ..self.clone() };
        let userns = idmap::user_namespace(init)?;
        // Opened here: before it runs its program, init may only be looked at by the host's root.
        let mounts = namespace(init, "mnt")?;
        let network = namespace(init, "net")?;
        let (socket, remote) = Endpoint::pair().context("make a socket pair")?;
        let helper = binary.spawn("devices", remote.into_fd())?;
        if let Err(e) = socket.send(&work, &[mounts.as_fd(), userns.as_fd(), network.as_fd()]) {
            process::kill(helper.as_fd());
            let _ = process::wait(helper.as_fd());
            return Err(e).context("instruct the devices' helper");
        }
        Ok((helper, socket))
    }
}

/// Namespace `kind` (`mnt` and its like) of process `pid`.
pub(crate) fn namespace(pid: Pid, kind: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero());
    Ok(File::open(&path).with_context(|| format!("open {path}"))?.into())
}

/// What the helper has told next on its socket.
pub(crate) fn outcome(socket: &Endpoint) -> (Outcome, Vec<OwnedFd>) {
    socket.recv().ok().flatten().unwrap_or_else(|| {
        let message = "the devices' helper was killed; stop the container to see its devices right again".into();
        (Outcome::Failed { message, placed: BTreeMap::new() }, Vec::new())
    })
}

/// The helper's main.
pub fn main() -> Result<()> {
    // SAFETY: the helper was started with this descriptor and touches it nowhere else.
    let socket = Endpoint::from_fd(unsafe { sys::take_fd(process::HELPER_FD) }.context("take the instructions")?);
    let failed = |e: Error| Outcome::Failed { message: e.to_string(), placed: BTreeMap::new() };
    let outcome = run(&socket).unwrap_or_else(failed);
    // If nobody listens any more nobody wants to know.
    let _ = socket.send(&outcome, &[]);
    Ok(())
}

fn run(socket: &Endpoint) -> Result<Outcome> {
    protect()?;
    let (work, fds): (Work, _) = socket
        .recv()
        .context("read the instructions")?
        .ok_or_else(|| Error::Handshake("the monitor is gone".into()))?;
    let [mounts, userns, network]: [OwnedFd; 3] =
        fds.try_into().map_err(|_| Error::Handshake("three descriptors were expected".into()))?;
    let idmap = work.idmap.ok_or_else(|| Error::Handshake("the container's ids are missing".into()))?;
    let path = format!("/proc/{}/mountinfo", work.init);
    let table = File::open(&path).with_context(|| format!("open {path}"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0));
    let mut sockets = BTreeMap::new();
    listen(&work, Side::Host, &mut sockets)?;
    let prepared = outside::prepare(&work.attach, userns.as_fd(), idmap)?;
    sys::setns(userns.as_fd(), libc::CLONE_NEWUSER).context("become the container's root")?;
    let prepared = prepared.lock()?;
    sys::setns(mounts.as_fd(), libc::CLONE_NEWNS).context("enter the container")?;
    init::become_root()?;
    // Entering the user namespace and the change of ids have undone both.
    protect()?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    sys::setns(network.as_fd(), libc::CLONE_NEWNET).context("enter the container's network")?;
    listen(&work, Side::Instance, &mut sockets)?;
    for (name, wanted) in &work.listen {
        let fds: Vec<_> = wanted.iter().filter_map(|socket| sockets.get(socket)).map(AsFd::as_fd).collect();
        socket.send(&Outcome::Listening(name.clone()), &fds).context("hand sockets over")?;
    }
    Ok(inside::Container::open(table)?.change(&work.detach, &prepared))
}

/// Makes the sockets that listen on one side.
fn listen(work: &Work, side: Side, sockets: &mut BTreeMap<Listening, OwnedFd>) -> Result<()> {
    for (name, wanted) in &work.listen {
        for wanted in wanted.iter().filter(|wanted| wanted.side == side) {
            let socket = proxy::sockets::listen(&wanted.address, wanted.owner);
            let socket = socket.map_err(|e| Error::Init(format!("device \"{name}\": {e}")))?;
            sockets.insert(wanted.clone(), socket);
        }
    }
    Ok(())
}

/// Whatever happens, nothing in the container may look into this process or steer it, and it ends with the monitor.
fn protect() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).context("protect the helper")?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).context("tie the helper to the monitor")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Mount, Propagation};

    fn mount(target: &str) -> Device {
        Device::Mount(Mount {
            source: "/srv".into(),
            target: target.into(),
            readonly: false,
            recursive: false,
            propagation: Propagation::Private,
            shift: false,
            required: true,
        })
    }

    #[test]
    fn only_what_differs_is_touched() {
        let placed = |target: &str| Placed { target: target.into(), mount: 1, device: "0:1".into(), made: false };
        let old = BTreeMap::from([("a".into(), mount("/a")), ("b".into(), mount("/b")), ("c".into(), mount("/c"))]);
        let now = BTreeMap::from([("a".into(), placed("/a")), ("b".into(), placed("/b")), ("c".into(), placed("/c"))]);
        let new = BTreeMap::from([("a".into(), mount("/a")), ("b".into(), mount("/x")), ("d".into(), mount("/d"))]);
        let work = Work::between(&old, &now, &new, BTreeMap::new());
        assert_eq!(work.detach.keys().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(work.attach.keys().collect::<Vec<_>>(), ["b", "d"]);
        let after = work.applied(&now, BTreeMap::from([("b".into(), placed("/x")), ("d".into(), placed("/d"))]));
        assert_eq!(after.keys().collect::<Vec<_>>(), ["a", "b", "d"]);
        assert!(Work::between(&new, &after, &new, BTreeMap::new()).is_empty());
        // What was not there when it was asked for is tried again.
        let without = BTreeMap::from([("a".into(), placed("/a")), ("b".into(), placed("/x"))]);
        assert_eq!(Work::between(&new, &without, &new, BTreeMap::new()).attach.len(), 1);
    }
}
