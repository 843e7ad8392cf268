//! Devices of an instance: from the keys on the wire to validated specifications.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::keys::closest;
use crate::model::{Config, Devices, Kind};
use crate::values::{parse_bool, parse_mac, parse_size};

/// Longest interface name (`IFNAMSIZ` less the final NUL).
const MAX_INTERFACE: usize = 15;

/// A validated device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// The root disk.
    Root(RootDisk),
    /// A path of the host.
    HostPath(HostPath),
    /// A network interface on a managed network.
    Nic(Nic),
    /// Takes a device of a profile away.
    None,
}

/// `type=disk path=/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDisk {
    /// Storage pool.
    pub pool: String,
    /// Size in bytes.
    pub size: Option<u64>,
}

/// `type=disk source=/host/path path=/inside`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPath {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path inside.
    pub path: String,
    /// No writing.
    pub readonly: bool,
    /// With the mounts below it.
    pub recursive: bool,
    /// Ids of the host's files are those inside.
    pub shift: bool,
    /// The instance does not start without the source.
    pub required: bool,
}

/// `type=nic network=...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Managed network.
    pub network: String,
    /// Name inside; the device's own name if absent.
    pub name: Option<String>,
    /// Fixed MAC address.
    pub hwaddr: Option<[u8; 6]>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Fixed IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Fixed IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

/// Parses one device; the complaint names it.
pub fn parse(name: &str, config: &Config, kind: Option<Kind>) -> Result<Device, String> {
    check_name(name)?;
    let fail = |reason: String| format!("device \"{name}\": {reason}");
    let keys = Keys { config };
    match config.get("type").map(String::as_str) {
        Some("none") => keys.only(&[]).map(|()| Device::None),
        Some("nic") => nic(&keys).map(Device::Nic),
        Some("disk") => disk(&keys, kind),
        Some(
            known @ ("unix-char" | "unix-block" | "unix-hotplug" | "usb" | "gpu" | "infiniband" | "proxy" | "tpm"
            | "pci"),
        ) => Err(format!("devices of type \"{known}\" are not supported by this version of Berth; remove it")),
        Some(other) => Err(match closest(other, ["disk", "nic", "none"].into_iter()) {
            Some(near) => format!("unknown type \"{other}\"; did you mean \"{near}\"?"),
            None => format!("unknown type \"{other}\"; use disk, nic or none"),
        }),
        None => Err("the key \"type\" is missing; use disk, nic or none".to_owned()),
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

fn address<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not an address of that family"))
}

fn nic(keys: &Keys<'_>) -> Result<Nic, String> {
    keys.only(&["network", "nictype", "parent", "name", "hwaddr", "mtu", "ipv4.address", "ipv6.address"])?;
    let network = match (keys.get("network"), keys.get("nictype"), keys.get("parent")) {
        (Some(network), None, None) => network,
        (None, Some("bridged"), Some(parent)) => parent,
        (None, Some(other), _) if other != "bridged" => {
            return Err(format!("nictype \"{other}\" is not supported by this version; use network=NAME"));
        }
        _ => return Err("say network=NAME, or nictype=bridged and parent=NAME".to_owned()),
    };
    let name = keys.parsed("name", |name| check_interface(name).map(|()| name.to_owned()))?;
    let mtu = |text: &str| match text.parse() {
        // 1280 is the least that IPv6 allows (RFC 8200), 65535 the most of virtio-net.
        Ok(mtu @ 1280..=65535) => Ok(mtu),
        _ => Err(format!("\"{text}\" is not an MTU between 1280 and 65535")),
    };
    Ok(Nic {
        network: network.to_owned(),
        name,
        hwaddr: keys.parsed("hwaddr", parse_mac)?,
        mtu: keys.parsed("mtu", mtu)?,
        ipv4: keys.parsed("ipv4.address", address)?,
        ipv6: keys.parsed("ipv6.address", address)?,
    })
}

fn check_interface(name: &str) -> Result<(), String> {
    let good = name.len() <= MAX_INTERFACE
        && name != "."
        && name != ".."
        && name != "lo"
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'));
    if good { Ok(()) } else { Err(format!("\"{name}\" is no interface name; use up to 15 letters and digits")) }
}

fn disk(keys: &Keys<'_>, kind: Option<Kind>) -> Result<Device, String> {
    let path = keys.get("path").ok_or("the key \"path\" is missing; it is where the disk appears inside")?;
    if path == "/" {
        keys.only(&["path", "pool", "size"])?;
        let pool = keys.get("pool").ok_or("the root disk needs a pool; say pool=default")?.to_owned();
        return Ok(Device::Root(RootDisk { pool, size: keys.parsed("size", parse_size)? }));
    }
    keys.only(&["path", "source", "readonly", "recursive", "shift", "required"])?;
    if kind == Some(Kind::VirtualMachine) {
        return Err("paths of the host in virtual machines are not supported by this version; remove it".to_owned());
    }
    let source = PathBuf::from(keys.get("source").ok_or("the key \"source\" is missing; it is a path on the host")?);
    if !source.is_absolute() {
        return Err("\"source\" must be an absolute path on the host".to_owned());
    }
    if path.split('/').any(|part| part == "..") {
        return Err("\"path\" may not hold \"..\"".to_owned());
    }
    Ok(Device::HostPath(HostPath {
        source,
        path: format!("/{}", path.trim_start_matches('/')),
        readonly: keys.flag("readonly", false)?,
        recursive: keys.flag("recursive", false)?,
        shift: keys.flag("shift", false)?,
        required: keys.flag("required", true)?,
    }))
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
        assert_eq!(root, Device::Root(RootDisk { pool: "default".into(), size: Some(20 << 30) }));
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
            assert_eq!(nic.network, "b0");
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
