//! What a project uses and how much of it it may.

use std::collections::BTreeMap;

use super::config;
use crate::devices::{self, Device};
use berth_containers::spec::CpuLimit;

use crate::keys;
use crate::model::{Config, Devices, Kind};
use crate::values::parse_size;

/// Something of which a project may have so much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Number of containers.
    Containers,
    /// CPUs of all instances together.
    Cpu,
    /// Bytes of root disks and images.
    Disk,
    /// Number of instances.
    Instances,
    /// Bytes of memory of all instances together.
    Memory,
    /// Number of networks.
    Networks,
    /// Processes of all containers together.
    Processes,
    /// Number of virtual machines.
    VirtualMachines,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Containers,
        Self::Cpu,
        Self::Disk,
        Self::Instances,
        Self::Memory,
        Self::Networks,
        Self::Processes,
        Self::VirtualMachines,
    ];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::Cpu => "cpu",
            Self::Disk => "disk",
            Self::Instances => "instances",
            Self::Memory => "memory",
            Self::Networks => "networks",
            Self::Processes => "processes",
            Self::VirtualMachines => "virtual-machines",
        }
    }
}

/// An instance with its profiles applied.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub name: String,
    pub kind: Kind,
    pub config: Config,
    pub devices: Devices,
}

impl Member {
    /// How much it counts for; `None` if it may take as much as it likes.
    fn amount(&self, resource: Resource) -> Result<Option<u64>, String> {
        let set = |key: &str| self.config.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let counts = |yes: bool| Ok(Some(u64::from(yes)));
        match resource {
            Resource::Instances => counts(true),
            Resource::Containers => counts(self.kind == Kind::Container),
            Resource::VirtualMachines => counts(self.kind == Kind::VirtualMachine),
            Resource::Networks => counts(false),
            Resource::Cpu => match set("limits.cpu").map(keys::cpus).transpose()? {
                Some(CpuLimit::Count(count)) => Ok(Some(u64::from(count))),
                Some(CpuLimit::Set(set)) => Err(format!("limits.cpu must be a number of CPUs, not the set \"{set}\"")),
                None => Ok(None),
            },
            Resource::Memory => match set("limits.memory") {
                Some(share) if share.ends_with('%') => {
                    Err(format!("limits.memory must be a size, not the share \"{share}\""))
                }
                Some(size) => parse_size(size).map(Some),
                None => Ok(None),
            },
            // What runs in a virtual machine is not the host's.
            Resource::Processes if self.kind == Kind::VirtualMachine => counts(false),
            Resource::Processes => match set("limits.processes") {
                Some(number) => number.parse().map(Some).map_err(|_| format!("\"{number}\" is no number")),
                None => Ok(None),
            },
            Resource::Disk => {
                let devices = devices::parse_all(&self.devices, Some(self.kind))?;
                let root = devices.into_iter().find_map(|(_, device)| match device {
                    Device::Root(root) => Some(root.size),
                    _ => None,
                });
                Ok(root.flatten())
            }
        }
    }

    /// The key that sets what it counts for.
    fn source(resource: Resource) -> &'static str {
        match resource {
            Resource::Cpu => "limits.cpu",
            Resource::Memory => "limits.memory",
            Resource::Processes => "limits.processes",
            _ => "the size of its root disk",
        }
    }
}

/// Everything of a project that counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Holdings {
    pub members: Vec<Member>,
    /// Bytes of images.
    pub images: u64,
    /// Number of networks.
    pub networks: u64,
}

impl Holdings {
    /// Puts a new or changed instance in its place.
    pub fn put(&mut self, member: Member) {
        self.members.retain(|other| other.name != member.name);
        self.members.push(member);
    }

    /// What is used; instances that have no bound count for nothing.
    pub fn used(&self, resource: Resource) -> u64 {
        let amounts = self.members.iter().map(|member| member.amount(resource).ok().flatten().unwrap_or(0));
        amounts.fold(self.others(resource), u64::saturating_add)
    }

    fn others(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Disk => self.images,
            Resource::Networks => self.networks,
            _ => 0,
        }
    }

    /// Whether all stays within `limits`; the complaint tells what does not.
    pub fn check(&self, project: &str, limits: &Limits) -> Result<(), String> {
        for (&resource, &limit) in &limits.0 {
            let mut used = self.others(resource);
            for member in &self.members {
                let amount = member
                    .amount(resource)
                    .and_then(|amount| amount.ok_or_else(|| format!("{} must be set", Member::source(resource))));
                used = used.saturating_add(amount.map_err(|reason| format!(
                    "project \"{project}\" has limits.{}, so for instance \"{}\" {reason}, by itself or in a profile",
                    resource.name(), member.name
                ))?);
            }
            if used > limit {
                return Err(format!(
                    "the limit of project \"{project}\" would be exceeded: limits.{} is {limit}, {used} would be used; \
                     remove something from the project or raise the limit",
                    resource.name()
                ));
            }
        }
        Ok(())
    }
}

/// The limits of a project.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits(BTreeMap<Resource, u64>);

impl Limits {
    /// Those that a valid configuration sets.
    pub fn of(config: &Config) -> Self {
        let limit =
            |resource: Resource| Some((resource, config::limit(config, &format!("limits.{}", resource.name()))?));
        Self(Resource::ALL.into_iter().filter_map(limit).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, resource: Resource) -> Option<u64> {
        self.0.get(&resource).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn member(name: &str, kind: Kind, pairs: &[(&str, &str)], size: Option<&str>) -> Member {
        let mut root = config(&[("type", "disk"), ("path", "/"), ("pool", "default")]);
        if let Some(size) = size {
            root.insert("size".to_owned(), size.to_owned());
        }
        Member { name: name.to_owned(), kind, config: config(pairs), devices: [("root".to_owned(), root)].into() }
    }

    #[test]
    fn sums_are_held_against_limits() {
        let mut holdings = Holdings { images: 1 << 30, networks: 1, ..Holdings::default() };
        holdings.put(member("c1", Kind::Container, &[("limits.memory", "1GiB"), ("limits.cpu", "2")], Some("3GiB")));
        holdings.put(member(
            "v1",
            Kind::VirtualMachine,
            &[("limits.memory", "2GiB"), ("limits.cpu", "1")],
            Some("4GiB"),
        ));
        let check = |key: &str, value: &str| holdings.check("p", &Limits::of(&config(&[(key, value)])));
        for (key, enough, short) in [
            ("limits.instances", "2", "1"),
            ("limits.containers", "1", "0"),
            ("limits.virtual-machines", "1", "0"),
            ("limits.cpu", "3", "2"),
            ("limits.memory", "3GiB", "2GiB"),
            ("limits.disk", "8GiB", "7GiB"),
            ("limits.networks", "1", "0"),
        ] {
            assert_eq!(check(key, enough), Ok(()), "{key}");
            assert!(check(key, short).unwrap_err().contains(key), "{key}");
        }
        assert!(check("limits.processes", "100").unwrap_err().contains("instance \"c1\" limits.processes must be set"));
        assert_eq!(holdings.used(Resource::Memory), 3 << 30);
        assert_eq!(holdings.used(Resource::Processes), 0);
    }

    #[test]
    fn a_changed_instance_counts_once() {
        let mut holdings = Holdings::default();
        for size in ["1GiB", "2GiB"] {
            holdings.put(member("c1", Kind::Container, &[], Some(size)));
        }
        assert_eq!((holdings.used(Resource::Instances), holdings.used(Resource::Disk)), (1, 2 << 30));
    }

    #[test]
    fn what_cannot_be_summed_is_refused() {
        let limits = Limits::of(&config(&[("limits.cpu", "8"), ("limits.memory", "8GiB")]));
        for (pairs, says) in [
            (&[("limits.cpu", "0-1"), ("limits.memory", "1GiB")][..], "set \"0-1\""),
            (&[("limits.cpu", "1"), ("limits.memory", "10%")], "share \"10%\""),
            (&[("limits.cpu", "1")], "limits.memory must be set"),
        ] {
            let mut holdings = Holdings::default();
            holdings.put(member("c1", Kind::Container, pairs, None));
            assert!(holdings.check("p", &limits).unwrap_err().contains(says), "{says}");
        }
    }
}
