//! Network interfaces.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Keys, NicLimits};
use crate::values::parse_mac;

/// Longest interface name (`IFNAMSIZ` less the final NUL).
const MAX_INTERFACE: usize = 15;

/// What an interface is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// `network=NAME`: a managed network.
    Network(String),
    /// `nictype=bridged parent=NAME`: a bridge of the host, managed or not.
    Bridge(String),
}

impl Link {
    /// Name of the bridge.
    pub fn name(&self) -> &str {
        let (Self::Network(name) | Self::Bridge(name)) = self;
        name
    }
}

/// `type=nic`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// What it is on.
    pub link: Link,
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
    /// Limits.
    pub limits: NicLimits,
}

fn address<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not an address of that family"))
}

pub(super) fn parse(keys: &Keys<'_>) -> Result<Nic, String> {
    keys.only(&[
        "network",
        "nictype",
        "parent",
        "name",
        "hwaddr",
        "mtu",
        "ipv4.address",
        "ipv6.address",
        "limits.ingress",
        "limits.egress",
        "limits.max",
    ])?;
    let link = match (keys.get("network"), keys.get("nictype"), keys.get("parent")) {
        (Some(network), None, None) => Link::Network(network.to_owned()),
        (None, Some("bridged"), Some(parent)) => Link::Bridge(parent.to_owned()),
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
        link,
        name,
        hwaddr: keys.parsed("hwaddr", parse_mac)?,
        mtu: keys.parsed("mtu", mtu)?,
        ipv4: keys.parsed("ipv4.address", address)?,
        ipv6: keys.parsed("ipv6.address", address)?,
        limits: NicLimits::parse(|key| keys.get(key))?,
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
