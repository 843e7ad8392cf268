//! Control groups.
//!
//! In every hierarchy of the host a container has
//!
//! - `berth/UUID`: carries the limits and stays the host's;
//! - `berth/UUID/payload`: the container and the root of its cgroup namespace. Where its init needs to make
//!   cgroups (version 2, and the named systemd hierarchy of version 1) directory and process lists belong to the
//!   container's root, the limits never do;
//! - `berth/UUID.monitor`: the monitor, so that neither the service manager that stops the daemon nor the
//!   container's own limits end it.

mod cpus;
mod detail;
mod hierarchy;
mod limits;
mod memory;
mod remove;
mod usage;

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_guest::protocol::Detail;
use rustix::process::Pid;

pub use hierarchy::{Hierarchy, Version};
pub use usage::Usage;

use crate::error::{Context, Error, Result};
use crate::spec::{IdMap, Limits};

/// Directory of all that is ours.
const BASE: &str = "berth";
/// Leaf in which programs run that are started from outside. In version 2 a cgroup whose controllers are given on
/// to children, as systemd does, may hold no processes itself.
const EXEC_LEAF: &str = ".berth-exec";
/// Controllers of version 2 that are used or handed on.
const WANTED: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// The cgroups of one container.
#[derive(Debug)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    uuid: String,
}

impl Cgroups {
    /// Finds the host's hierarchies; makes nothing yet.
    pub fn discover(uuid: &str) -> Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        Ok(Self { hierarchies: hierarchy::parse(&table)?, uuid: uuid.to_owned() })
    }

    /// Makes them, sets the limits and gives the container's root what is its own.
    pub fn create(&self, limits: &Limits, map: IdMap) -> Result<()> {
        for hierarchy in &self.hierarchies {
            // The monitor of the last other container would remove the base directory under our hands.
            let _lock = hierarchy.lock()?;
            hierarchy.prepare_base()?;
            make(&self.instance(hierarchy))?;
            make(&self.monitor(hierarchy))?;
        }
        self.change_limits(&Limits::default(), limits)?;
        for hierarchy in &self.hierarchies {
            hierarchy.hand_on(&self.instance(hierarchy));
            let payload = self.payload(hierarchy);
            make(&payload)?;
            if hierarchy.is_delegated() {
                hierarchy.delegate(&payload, map)?;
            }
            if hierarchy.version == Version::Two {
                let leaf = payload.join(EXEC_LEAF);
                make(&leaf)?;
                hierarchy.delegate(&leaf, map)?;
            }
        }
        Ok(())
    }

    /// Moves the calling process into the monitor's cgroups.
    pub fn enter_monitor(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            write(&self.monitor(hierarchy).join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// Puts a new container's first process in its place.
    pub fn enter_payload(&self, pid: Pid) -> Result<()> {
        for hierarchy in &self.hierarchies {
            write(&self.payload(hierarchy).join("cgroup.procs"), &pid.as_raw_nonzero().to_string())?;
        }
        Ok(())
    }

    /// On a host with version 2 only: the payload's directory, for `CLONE_INTO_CGROUP`, which spares the kernel
    /// the costly move of a process.
    pub fn unified_payload(&self) -> Result<Option<OwnedFd>> {
        let [only] = self.hierarchies.as_slice() else { return Ok(None) };
        if only.version != Version::Two {
            return Ok(None);
        }
        let path = self.payload(only);
        Ok(Some(File::open(&path).with_context(|| format!("open {}", path.display()))?.into()))
    }

    /// Whether the host has version 2 alone.
    pub fn is_unified(&self) -> bool {
        matches!(self.hierarchies.as_slice(), [only] if only.version == Version::Two)
    }

    /// Process lists in which a program that joins the container writes itself.
    pub fn joinable(&self) -> Result<Vec<OwnedFd>> {
        self.hierarchies
            .iter()
            .map(|hierarchy| {
                let mut path = self.payload(hierarchy);
                if hierarchy.version == Version::Two {
                    path.push(EXEC_LEAF);
                }
                path.push("cgroup.procs");
                let file = OpenOptions::new().write(true).open(&path);
                Ok(file.with_context(|| format!("open {}", path.display()))?.into())
            })
            .collect()
    }

    /// Freezes all processes of the container, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let modern = self.hierarchies.iter().find(|h| h.version == Version::Two);
        if let Some(hierarchy) = modern {
            return hierarchy.freeze_v2(&self.payload(hierarchy), frozen);
        }
        match self.controller("freezer") {
            Some(hierarchy) => hierarchy.freeze_v1(&self.payload(hierarchy), frozen),
            None => Err(Error::Unsupported(
                "this host has no freezer: mount cgroup2, or the freezer hierarchy of version 1".into(),
            )),
        }
    }

    /// What the container uses.
    pub fn usage(&self) -> Usage {
        usage::read(self)
    }

    /// Figures for monitoring.
    pub fn detail(&self) -> Detail {
        detail::read(self)
    }

    /// Removes all of them, with what is below and any process in them. The calling process leaves first if it is
    /// in one of them.
    pub fn remove(&self) -> Result<()> {
        let mut failure = None;
        for hierarchy in &self.hierarchies {
            let base = hierarchy.root.join(BASE);
            let mut result = remove::tree(&self.instance(hierarchy), hierarchy.version);
            if hierarchy.holds_self(&self.monitor(hierarchy)) {
                // Only the root may hold processes beside children with controllers.
                result = result.and_then(|()| write(&hierarchy.root.join("cgroup.procs"), "0"));
            }
            result = result.and_then(|()| remove::tree(&self.monitor(hierarchy), hierarchy.version));
            result = result.and_then(|()| {
                let _lock = hierarchy.lock()?;
                // Fails while other containers are there, which is the purpose.
                let _ = fs::remove_dir(base);
                Ok(())
            });
            failure = failure.or(result.err());
        }
        failure.map_or(Ok(()), Err)
    }

    fn controller(&self, name: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.has(name))
    }

    fn instance(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.root.join(BASE).join(&self.uuid)
    }

    fn payload(&self, hierarchy: &Hierarchy) -> PathBuf {
        self.instance(hierarchy).join("payload")
    }

    fn monitor(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.root.join(BASE).join(format!("{}.monitor", self.uuid))
    }
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir(path).with_context(|| format!("make the cgroup {}", path.display()))
}

/// Writes a control file in one call, which the kernel wants.
fn write(path: &Path, value: &str) -> Result<()> {
    let result = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|file| Ok(rustix::io::write(file.as_fd(), value.as_bytes())?));
    result.map(drop).with_context(|| format!("write {value:?} to {}", path.display()))
}

/// A control file's text without the line end; `None` if it is not there.
fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}
