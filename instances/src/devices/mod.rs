//! Devices of an instance: from the keys on the wire to validated specifications.

mod disk;
mod limits;
mod nic;
mod proxy;
mod unix;

use berth_containers::spec::NodeKind;

use crate::keys::closest;
use crate::model::{Config, Devices, Kind};
use crate::values::parse_bool;

pub use berth_containers::spec::{Node, Proxy};
pub use disk::{Disk, DiskSource, RootDisk};
pub use limits::{DiskLimits, DiskRate, NicLimits};
pub use nic::{Link, Nic};

/// Types of devices that there are.
const TYPES: [&str; 6] = ["disk", "nic", "none", "proxy", "unix-block", "unix-char"];

/// A validated device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// The root disk.
    Root(RootDisk),
    /// A path of the host, or a volume.
    Disk(Disk),
    /// A network interface on a managed network.
    Nic(Nic),
    /// A device node of the host.
    Node(Node),
    /// Passes connections on.
    Proxy(Proxy),
    /// Takes a device of a profile away.
    None,
}

impl Device {
    /// The device without what can be changed while a virtual machine runs.
    pub(crate) fn fixed(self) -> Self {
        match self {
            Self::Root(root) => Self::Root(RootDisk { size: None, limits: DiskLimits::default(), ..root }),
            Self::Nic(nic) => Self::Nic(Nic { limits: NicLimits::default(), ..nic }),
            other => other,
        }
    }
}

/// Parses one device; the complaint names it.
pub fn parse(name: &str, config: &Config, kind: Option<Kind>) -> Result<Device, String> {
    check_name(name)?;
    let fail = |reason: String| format!("device \"{name}\": {reason}");
    let keys = Keys { config };
    match config.get("type").map(String::as_str) {
        Some("none") => keys.only(&[]).map(|()| Device::None),
        Some("nic") => nic::parse(&keys).map(Device::Nic),
        Some("disk") => disk::parse(&keys, kind),
        Some(unix @ ("unix-char" | "unix-block" | "proxy")) if kind == Some(Kind::VirtualMachine) => {
            Err(format!("devices of type \"{unix}\" are for containers only; remove it from this virtual machine"))
        }
        Some("unix-char") => unix::parse(&keys, NodeKind::Char).map(Device::Node),
        Some("proxy") => proxy::parse(&keys).map(Device::Proxy),
        Some("unix-block") => unix::parse(&keys, NodeKind::Block).map(Device::Node),
        Some(known @ ("unix-hotplug" | "usb" | "gpu" | "infiniband" | "tpm" | "pci")) => {
            Err(format!("devices of type \"{known}\" are not supported by this version of Berth; remove it"))
        }
        Some(other) => Err(match closest(other, TYPES.into_iter()) {
            Some(near) => format!("unknown type \"{other}\"; did you mean \"{near}\"?"),
            None => format!("unknown type \"{other}\"; use one of: {}", TYPES.join(", ")),
        }),
        None => Err(format!("the key \"type\" is missing; use one of: {}", TYPES.join(", "))),
    }
    .map_err(fail)
}

/// Parses all devices.
pub fn parse_all(devices: &Devices, kind: Option<Kind>) -> Result<Vec<(String, Device)>, String> {
    let mut parsed = Vec::new();
    let mut complaints = Vec::new();
    for (name, config) in devices {
        match parse(name, config, kind) {
            Ok(device) => parsed.push((name.clone(), device)),
            Err(complaint) => complaints.push(complaint),
        }
    }
    if complaints.is_empty() { Ok(parsed) } else { Err(complaints.join("; ")) }
}

fn check_name(name: &str) -> Result<(), String> {
    let good = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if good { Ok(()) } else { Err(format!("\"{name}\" is no device name; use letters, digits, '-', '_' and '.'")) }
}

struct Keys<'a> {
    config: &'a Config,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.config.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        self.get(key).map_or(Ok(default), |value| parse_bool(value).map_err(|e| format!("{key}: {e}")))
    }

    fn parsed<T>(&self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
        self.get(key).map(|value| parse(value).map_err(|e| format!("{key}: {e}"))).transpose()
    }

    fn only(&self, known: &[&str]) -> Result<(), String> {
        let allowed = |key: &str| key == "type" || key.starts_with("user.") || known.contains(&key);
        match self.config.keys().find(|key| !allowed(key)) {
            None => Ok(()),
            Some(key) => Err(match closest(key, known.iter().copied()) {
                Some(near) => format!("unknown key \"{key}\"; did you mean \"{near}\"?"),
                None => {
                    format!("key \"{key}\" is unknown or not supported by this version; known: {}", known.join(", "))
                }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(pairs: &[(&str, &str)]) -> Result<Device, String> {
        parse("d0", &pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(), Some(Kind::Container))
    }

    #[test]
    fn root_disks_need_a_pool() {
        let root = device(&[("type", "disk"), ("path", "/"), ("pool", "default"), ("size", "20GiB")]).unwrap();
        let limits = DiskLimits::default();
        assert_eq!(root, Device::Root(RootDisk { pool: "default".into(), size: Some(20 << 30), limits }));
        assert!(device(&[("type", "disk"), ("path", "/")]).unwrap_err().contains("pool=default"));
    }

    #[test]
    fn host_paths_stay_absolute() {
        assert!(device(&[("type", "disk"), ("path", "mnt"), ("source", "/srv")]).is_ok());
        assert!(device(&[("type", "disk"), ("path", "/mnt"), ("source", "srv")]).is_err());
        assert!(device(&[("type", "disk"), ("path", "/a/../../b"), ("source", "/srv")]).is_err());
    }

    #[test]
    fn nics_name_a_network_either_way() {
        for keys in
            [&[("type", "nic"), ("network", "b0")][..], &[("type", "nic"), ("nictype", "bridged"), ("parent", "b0")]]
        {
            let Device::Nic(nic) = device(keys).unwrap() else { panic!("not a NIC") };
            assert_eq!(nic.link.name(), "b0");
        }
        for wrong in [
            &[("type", "nic")][..],
            &[("type", "nic"), ("nictype", "macvlan"), ("parent", "eth0")],
            &[("type", "nic"), ("network", "b0"), ("name", "a/b")],
            &[("type", "nic"), ("network", "b0"), ("mtu", "10")],
            &[("type", "nic"), ("network", "b0"), ("nonsense", "1")],
        ] {
            assert!(device(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn other_types_are_refused_with_a_reason() {
        assert!(device(&[("type", "gpu")]).unwrap_err().contains("not supported by this version"));
        assert!(device(&[("type", "dsk")]).unwrap_err().contains("did you mean \"disk\""));
        assert!(device(&[]).unwrap_err().contains("\"type\" is missing"));
    }
}
