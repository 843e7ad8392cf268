//! The validated specification of one start: what the configuration means on this host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_containers::spec::{self, CpuLimit, Limits, MemoryLimit, Rlimit};
use berth_containers::templates::Templates;
use uuid::Uuid;

use crate::cloud_init;
use crate::devices::{self, Device, Disk, DiskLimits, DiskSource, Nic, NicLimits, RootDisk};
use crate::keys;
use crate::model::{Config, Devices, Instance, Kind};
use crate::values::{parse_bool, parse_memory, parse_size};

/// Size of a root disk that names none, as LXD has it.
const DEFAULT_DISK: u64 = 10 << 30;
/// Memory of a virtual machine that names none, as LXD has it.
const DEFAULT_VM_MEMORY: u64 = 1 << 30;
/// CPUs of a virtual machine that names none, as LXD has it.
const DEFAULT_VM_CPUS: u32 = 1;

/// Where an instance lives on this host.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub run_dir: PathBuf,
    pub log_dir: PathBuf,
}

impl Places {
    pub(crate) fn of(dir: &Path, uuid: Uuid) -> Self {
        let name = uuid.simple().to_string();
        Self { run_dir: dir.join("run").join(&name), log_dir: dir.join("logs").join(&name) }
    }

    pub(crate) fn console_log(&self) -> PathBuf {
        self.log_dir.join("console.log")
    }

    /// What a container sees as `/dev/lxd`; not there if it is to see none.
    pub(crate) fn devlxd(&self) -> PathBuf {
        self.run_dir.join("devlxd")
    }
}

/// See the module's text.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub name: String,
    /// What the guest is told to call itself when it boots; none for one that is told later.
    pub hostname: Option<String>,
    pub uuid: Uuid,
    pub places: Places,
    pub volume: PathBuf,
    /// Bytes of the root disk.
    pub root_size: u64,
    /// Limits of a virtual machine's root disk.
    pub root_limits: DiskLimits,
    /// Limits of NICs, by device.
    pub nic_limits: BTreeMap<String, NicLimits>,
    /// Of these, a virtual machine has CPUs and memory only.
    pub limits: Limits,
    pub rlimits: BTreeMap<String, Rlimit>,
    pub nesting: bool,
    pub env: BTreeMap<String, String>,
    /// Those of a container that its runtime makes.
    pub devices: BTreeMap<String, spec::Device>,
    pub proxies: BTreeMap<String, spec::Proxy>,
    /// `linux.sysctl.*` of a container.
    pub sysctls: BTreeMap<String, String>,
    pub modules: Vec<String>,
    /// First host id of the instance's range.
    pub idmap_base: Option<u32>,
    /// vsock address of a virtual machine.
    pub vsock_cid: Option<u32>,
    /// Fingerprint of the image it was made of.
    pub base_image: Option<String>,
    /// Files to be written into a container; filled in for a start.
    pub templates: Templates,
    /// What a virtual machine's cloud-init is told: files by name.
    pub cloud_init: Option<Vec<(&'static str, String)>>,
}

impl Plan {
    /// What `instance` means; complaints name the key or device. `volumes` are where the volumes of disks lie, by device.
    pub(crate) fn new(
        instance: &Instance,
        places: Places,
        volume: PathBuf,
        volumes: &BTreeMap<String, PathBuf>,
    ) -> Result<Self, String> {
        let config = &instance.expanded_config;
        keys::validate(config, Some(instance.kind))?;
        let devices = devices::parse_all(&instance.expanded_devices, Some(instance.kind))?;
        let nic_limits = |(name, device): &(String, Device)| match device {
            Device::Nic(nic) => Some((name.clone(), nic.limits)),
            _ => None,
        };
        let nic_limits = devices.iter().filter_map(nic_limits).collect();
        let proxy = |(name, device): &(String, Device)| match device {
            Device::Proxy(proxy) => Some((name.clone(), proxy.clone())),
            _ => None,
        };
        let proxies = devices.iter().filter_map(proxy).collect();
        let devices = devices.into_iter().filter_map(|(name, device)| runtime_device(name, device, volumes)).collect();
        let root = root(&instance.expanded_devices, instance.kind)?;
        let env = config
            .iter()
            .filter_map(|(k, v)| k.strip_prefix("environment.").map(|name| (name.to_owned(), v.clone())))
            .collect();
        let number = |key: &str| instance.volatile.get(key).and_then(|value| value.parse().ok());
        Ok(Self {
            name: instance.name.clone(),
            hostname: Some(instance.name.clone()),
            uuid: instance.uuid,
            places,
            volume,
            root_size: root.size.unwrap_or(DEFAULT_DISK),
            root_limits: root.limits,
            nic_limits,
            limits: limits(config)?,
            rlimits: prefixed(config, "limits.kernel.", keys::rlimit)?,
            nesting: value(config, "security.nesting", parse_bool)?.unwrap_or(false),
            env,
            devices,
            proxies,
            sysctls: prefixed(config, "linux.sysctl.", |value| Ok(value.to_owned()))?,
            modules: value(config, "linux.kernel_modules", keys::modules)?.unwrap_or_default(),
            idmap_base: number("volatile.idmap.base"),
            vsock_cid: number("volatile.vsock_id"),
            base_image: instance.volatile.get("volatile.base_image").cloned(),
            templates: Templates::default(),
            cloud_init: cloud_init::files(&instance.volatile, &instance.name, config),
        })
    }

    /// CPUs of a virtual machine.
    pub(crate) fn vcpus(&self) -> Result<u8, String> {
        let count = match &self.limits.cpus {
            None => DEFAULT_VM_CPUS,
            Some(CpuLimit::Count(count)) => *count,
            Some(CpuLimit::Set(set)) => crate::values::parse_cpu_set(set)?.len() as u32,
        };
        u8::try_from(count)
            .map_err(|_| format!("limits.cpu: {count} is more than the 255 CPUs a virtual machine can have"))
    }

    /// Memory of a virtual machine in bytes.
    pub(crate) fn vm_memory(&self) -> u64 {
        self.limits.memory.map_or(DEFAULT_VM_MEMORY, MemoryLimit::bytes)
    }
}

/// A device that a container's runtime makes.
fn runtime_device(name: String, device: Device, volumes: &BTreeMap<String, PathBuf>) -> Option<(String, spec::Device)> {
    let device = match device {
        Device::Node(node) => spec::Device::Node(node),
        Device::Disk(disk) => spec::Device::Mount(spec::Mount {
            source: match disk.source {
                DiskSource::Path(path) => path,
                DiskSource::Volume { .. } => volumes.get(&name)?.clone(),
            },
            target: disk.path,
            readonly: disk.readonly,
            recursive: disk.recursive,
            propagation: disk.propagation,
            shift: disk.shift,
            required: disk.required,
        }),
        Device::Root(_) | Device::Nic(_) | Device::Proxy(_) | Device::None => return None,
    };
    Some((name, device))
}

fn limits(config: &Config) -> Result<Limits, String> {
    let soft = value(config, "limits.memory.enforce", |word| Ok(word == "soft"))?.unwrap_or(false);
    let memory = value(config, "limits.memory", parse_memory)?;
    Ok(Limits {
        memory: memory.map(|bytes| if soft { MemoryLimit::Soft(bytes) } else { MemoryLimit::Hard(bytes) }),
        swap: value(config, "limits.memory.swap", parse_bool)?,
        swap_priority: value(config, "limits.memory.swap.priority", keys::priority)?,
        cpus: value(config, "limits.cpu", keys::cpus)?,
        cpu_allowance: value(config, "limits.cpu.allowance", keys::allowance)?,
        cpu_priority: value(config, "limits.cpu.priority", keys::priority)?,
        processes: value(config, "limits.processes", |v| v.parse().map_err(|_| format!("\"{v}\" is no number")))?,
        disk_priority: value(config, "limits.disk.priority", keys::priority)?,
        hugepages: prefixed(config, "limits.hugepages.", parse_size)?,
    })
}

/// The values of all keys that begin with `prefix`, by the rest of the key.
fn prefixed<T>(
    config: &Config,
    prefix: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeMap<String, T>, String> {
    let given = config.iter().filter_map(|(key, value)| Some((key, key.strip_prefix(prefix)?, value)));
    given
        .filter(|(.., value)| !value.is_empty())
        .map(|(key, rest, value)| {
            let value = parse(value).map_err(|e| format!("value of \"{key}\": {e}"))?;
            Ok((rest.to_owned(), value))
        })
        .collect()
}

fn value<T>(config: &Config, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    let given = config.get(key).filter(|value| !value.is_empty());
    given.map(|value| parse(value).map_err(|e| format!("value of \"{key}\": {e}"))).transpose()
}

/// The root disk of a set of expanded devices: its pool and its size in bytes.
pub(crate) fn root_disk(devices: &Devices, kind: Kind) -> Result<(String, u64), String> {
    root(devices, kind).map(|root| (root.pool, root.size.unwrap_or(DEFAULT_DISK)))
}

/// How many bytes the volume of an instance may hold. What that of a virtual machine holds is limited by its disk.
pub(crate) fn root_limit(devices: &Devices, kind: Kind) -> Result<Option<u64>, String> {
    match kind {
        Kind::Container => root(devices, kind).map(|root| root.size),
        Kind::VirtualMachine => Ok(None),
    }
}

fn root(devices: &Devices, kind: Kind) -> Result<RootDisk, String> {
    let mut roots = devices::parse_all(devices, Some(kind))?.into_iter().filter_map(|(name, device)| match device {
        Device::Root(root) => Some((name, root)),
        _ => None,
    });
    match (roots.next(), roots.next()) {
        (Some((_, root)), None) => Ok(root),
        (None, _) => Err(
            "the instance has no root disk; add a profile with one, or the device root with type=disk path=/ pool=default"
                .to_owned(),
        ),
        (Some((one, _)), Some((two, _))) => Err(format!("the devices \"{one}\" and \"{two}\" are both root disks; remove one")),
    }
}

/// Whether two sets of expanded devices differ in nothing but what can be changed while a virtual machine runs.
pub(crate) fn changes_live(one: &Devices, two: &Devices) -> Result<bool, String> {
    let fixed = |devices| -> Result<Vec<_>, String> {
        let parsed = devices::parse_all(devices, Some(Kind::VirtualMachine))?;
        Ok(parsed.into_iter().map(|(name, device)| (name, device.fixed())).collect())
    };
    Ok(fixed(one)? == fixed(two)?)
}

/// The volumes that disks of a set of expanded devices want: device, pool and volume.
pub(crate) fn volumes(devices: &Devices, kind: Kind) -> Result<Vec<(String, String, String)>, String> {
    let parsed = devices::parse_all(devices, Some(kind))?;
    let volume = |(device, parsed)| match parsed {
        Device::Disk(Disk { source: DiskSource::Volume { pool, name }, .. }) => Some((device, pool, name)),
        _ => None,
    };
    Ok(parsed.into_iter().filter_map(volume).collect())
}

/// The NICs of a set of expanded devices, by device name.
pub(crate) fn nics(devices: &Devices, kind: Kind) -> Result<Vec<(String, Nic)>, String> {
    let parsed = devices::parse_all(devices, Some(kind))?;
    Ok(parsed
        .into_iter()
        .filter_map(|(name, device)| if let Device::Nic(nic) = device { Some((name, nic)) } else { None })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(root: &[(&str, &str)], eth0: &[(&str, &str)]) -> Devices {
        let keys = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Devices::from([("root".to_owned(), keys(root)), ("eth0".to_owned(), keys(eth0))])
    }

    #[test]
    fn size_and_limits_may_change() {
        let root = [("type", "disk"), ("path", "/"), ("pool", "p")];
        let nic = [("type", "nic"), ("network", "n"), ("mtu", "1500")];
        let base = devices(&root, &nic);
        let larger = [&root[..], &[("size", "1GiB"), ("limits.read", "10MB"), ("limits.write", "5iops")]].concat();
        let limited = [&nic[..], &[("limits.max", "1Mbit")]].concat();
        assert_eq!(changes_live(&base, &devices(&larger, &limited)), Ok(true));
        let other = [&root[..2], &[("pool", "q")]].concat();
        assert_eq!(changes_live(&base, &devices(&other, &nic)), Ok(false));
        let other = [&nic[..2], &[("mtu", "1400")]].concat();
        assert_eq!(changes_live(&base, &devices(&root, &other)), Ok(false));
    }
}
