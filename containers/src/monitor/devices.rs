//! Changes of a running container.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use berth_supervisor::protocol::Reply;
use berth_supervisor::transport::Endpoint;

use super::Container;
use super::proxies::Sockets;
use super::serve::Server;
use crate::devices::{self, Outcome, Work};
use crate::error::{Context, Error, Result};
use crate::process::{self, OwnBinary};
use crate::spec::{ContainerSpec, Limits};

/// A change of which the limits are made and the devices are being changed.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) socket: Endpoint,
    helper: OwnedFd,
    new: Box<ContainerSpec>,
    old_limits: Limits,
    work: Work,
    sockets: BTreeMap<String, Sockets>,
}

/// How far a change has come.
pub(super) enum Step {
    Wait(Change),
    Over(Reply),
}

impl Container {
    /// What is to be done for the devices of `new`.
    fn work_for(&self, new: &ContainerSpec) -> Work {
        let missing = self.proxies.missing(&new.proxies);
        Work::between(&self.spec.devices, &self.placed, &new.devices, missing)
    }

    /// Gives a container its devices before its init runs. Returns processes to be reaped.
    pub(super) fn place_devices(&mut self, binary: &OwnBinary) -> Result<Vec<OwnedFd>> {
        let work = self.work_for(&self.spec);
        if work.is_empty() {
            return Ok(Vec::new());
        }
        let (helper, socket) = work.start(binary, &self.spec, self.init().pid)?;
        let mut sockets = BTreeMap::new();
        let told = loop {
            match devices::outcome(&socket) {
                (Outcome::Listening(name), fds) => drop(sockets.insert(name.clone(), name_sockets(&work, &name, fds))),
                (told, _) => break told,
            }
        };
        process::kill(helper.as_fd());
        let _ = process::wait(helper.as_fd());
        match told {
            Outcome::Done(placed) => self.placed = placed,
            Outcome::Failed { message, .. } => return Err(Error::Init(message)),
            Outcome::Listening(_) => unreachable!("the loop takes these"),
        }
        let init = self.init().pid;
        self.proxies.set(&self.spec.proxies, sockets, binary, init)
    }

    fn undo_limits(&mut self, old: &Limits) {
        if let Err(e) = self.cgroups.change_limits(&self.spec.limits, old) {
            super::complain(&format!("limits of {} are not as they were: {e}", self.spec.name));
        }
        self.spec.limits = old.clone();
    }
}

fn name_sockets(work: &Work, proxy: &str, fds: Vec<OwnedFd>) -> Sockets {
    work.sockets_of(proxy).iter().cloned().zip(fds).collect()
}

impl Server {
    /// Takes what can be taken of a new specification. With devices it takes a while: then the change is returned, and
    /// its helper is among the children.
    pub(super) fn change(&mut self, spec: serde_json::Value) -> Result<Option<Change>> {
        let new: Box<ContainerSpec> = serde_json::from_value(spec).map_err(|e| Error::Spec(e.to_string()))?;
        new.check()?;
        let container = &mut self.container;
        let old_limits = container.spec.limits.clone();
        container.cgroups.change_limits(&old_limits, &new.limits)?;
        container.spec.limits = new.limits.clone();
        match self.begin(&new) {
            Ok(None) => Ok(None),
            Ok(Some((helper, socket, work))) => {
                Ok(Some(Change { socket, helper, new, old_limits, work, sockets: BTreeMap::new() }))
            }
            Err(e) => {
                self.container.undo_limits(&old_limits);
                Err(e)
            }
        }
    }

    /// Begins with the devices, if there is something to be done that takes a while.
    fn begin(&mut self, new: &ContainerSpec) -> Result<Option<(OwnedFd, Endpoint, Work)>> {
        let work = self.container.work_for(new);
        if work.is_empty() {
            self.complete(new, BTreeMap::new())?;
            return Ok(None);
        }
        let (helper, socket) = work.start(&self.binary, &self.container.spec, self.container.init().pid)?;
        self.children.push(helper.try_clone().context("copy a descriptor")?);
        Ok(Some((helper, socket, work)))
    }

    fn complete(&mut self, new: &ContainerSpec, sockets: BTreeMap<String, Sockets>) -> Result<()> {
        let container = &mut self.container;
        let init = container.init().pid;
        self.children.extend(container.proxies.set(&new.proxies, sockets, &self.binary, init)?);
        container.spec.devices.clone_from(&new.devices);
        container.spec.proxies.clone_from(&new.proxies);
        Ok(())
    }

    /// The helper has something to tell.
    pub(super) fn changed(&mut self, mut change: Change) -> Result<Step> {
        match devices::outcome(&change.socket) {
            (Outcome::Listening(name), fds) => {
                let sockets = name_sockets(&change.work, &name, fds);
                change.sockets.insert(name, sockets);
                Ok(Step::Wait(change))
            }
            (Outcome::Done(placed), _) => {
                self.container.placed = change.work.applied(&self.container.placed, placed);
                self.complete(&change.new, change.sockets)?;
                Ok(Step::Over(Reply::Done))
            }
            (Outcome::Failed { message, placed }, _) => {
                self.container.placed.extend(placed);
                self.container.undo_limits(&change.old_limits);
                Err(Error::Init(message))
            }
        }
    }

    /// The client has given up. The helper may hang in the container's own file systems.
    pub(super) fn abandon(&mut self, change: &Change) {
        process::kill(change.helper.as_fd());
        self.container.undo_limits(&change.old_limits);
    }
}
