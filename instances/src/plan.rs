//! The validated specification of one start: what the configuration means on this host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::cloud_init;
use crate::devices::{self, Device, HostPath, Nic};
use crate::keys::{self, Allowance, Cpus};
use crate::model::{Config, Devices, Instance, Kind};
use crate::values::{parse_bool, parse_memory};

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
}

/// See the module's text.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub name: String,
    pub uuid: Uuid,
    pub places: Places,
    pub volume: PathBuf,
    pub cpus: Option<Cpus>,
    pub allowance: Option<Allowance>,
    pub memory: Option<u64>,
    pub swap: Option<bool>,
    pub processes: Option<u64>,
    pub nesting: bool,
    pub env: BTreeMap<String, String>,
    pub mounts: Vec<HostPath>,
    /// First host id of a container's range.
    pub idmap_base: Option<u32>,
    /// vsock address of a virtual machine.
    pub vsock_cid: Option<u32>,
    /// Fingerprint of the image it was made of.
    pub base_image: Option<String>,
    /// What a virtual machine's cloud-init is told: files by name.
    pub cloud_init: Option<Vec<(&'static str, String)>>,
}

impl Plan {
    /// What `instance` means; complaints name the key or device.
    pub(crate) fn new(instance: &Instance, places: Places, volume: PathBuf) -> Result<Self, String> {
        let config = &instance.expanded_config;
        keys::validate(config, Some(instance.kind))?;
        let devices = devices::parse_all(&instance.expanded_devices, Some(instance.kind))?;
        let mounts = devices
            .into_iter()
            .filter_map(|(_, device)| if let Device::HostPath(path) = device { Some(path) } else { None })
            .collect();
        let env = config
            .iter()
            .filter_map(|(k, v)| k.strip_prefix("environment.").map(|name| (name.to_owned(), v.clone())))
            .collect();
        let number = |key: &str| instance.volatile.get(key).and_then(|value| value.parse().ok());
        Ok(Self {
            name: instance.name.clone(),
            uuid: instance.uuid,
            places,
            volume,
            cpus: value(config, "limits.cpu", keys::cpus)?,
            allowance: value(config, "limits.cpu.allowance", keys::allowance)?,
            memory: value(config, "limits.memory", parse_memory)?,
            swap: value(config, "limits.memory.swap", parse_bool)?,
            processes: value(config, "limits.processes", |v| v.parse().map_err(|_| format!("\"{v}\" is no number")))?,
            nesting: value(config, "security.nesting", parse_bool)?.unwrap_or(false),
            env,
            mounts,
            idmap_base: number("volatile.idmap.base"),
            vsock_cid: number("volatile.vsock_id"),
            base_image: instance.volatile.get("volatile.base_image").cloned(),
            cloud_init: cloud_init::files(&instance.volatile, &instance.name, config),
        })
    }

    /// CPUs of a virtual machine.
    pub(crate) fn vcpus(&self) -> Result<u8, String> {
        let count = match &self.cpus {
            None => DEFAULT_VM_CPUS,
            Some(Cpus::Count(count)) => *count,
            Some(Cpus::Set(set)) => crate::values::parse_cpu_set(set)?.len() as u32,
        };
        u8::try_from(count)
            .map_err(|_| format!("limits.cpu: {count} is more than the 255 CPUs a virtual machine can have"))
    }

    /// Memory of a virtual machine in bytes.
    pub(crate) fn vm_memory(&self) -> u64 {
        self.memory.unwrap_or(DEFAULT_VM_MEMORY)
    }
}

fn value<T>(config: &Config, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    let given = config.get(key).filter(|value| !value.is_empty());
    given.map(|value| parse(value).map_err(|e| format!("value of \"{key}\": {e}"))).transpose()
}

/// The root disk of a set of expanded devices: its pool and its size in bytes.
pub(crate) fn root_disk(devices: &Devices, kind: Kind) -> Result<(String, u64), String> {
    let mut roots = devices::parse_all(devices, Some(kind))?.into_iter().filter_map(|(name, device)| match device {
        Device::Root(root) => Some((name, root)),
        _ => None,
    });
    match (roots.next(), roots.next()) {
        (Some((_, root)), None) => Ok((root.pool, root.size.unwrap_or(DEFAULT_DISK))),
        (None, _) => Err(
            "the instance has no root disk; add a profile with one, or the device root with type=disk path=/ pool=default"
                .to_owned(),
        ),
        (Some((one, _)), Some((two, _))) => Err(format!("the devices \"{one}\" and \"{two}\" are both root disks; remove one")),
    }
}

/// The NICs of a set of expanded devices, by device name.
pub(crate) fn nics(devices: &Devices, kind: Kind) -> Result<Vec<(String, Nic)>, String> {
    let parsed = devices::parse_all(devices, Some(kind))?;
    Ok(parsed
        .into_iter()
        .filter_map(|(name, device)| if let Device::Nic(nic) = device { Some((name, nic)) } else { None })
        .collect())
}
