//! The configuration of a bridge: its keys, checked and turned into a [`BridgeSpec`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crate::error::NetworkError;
use crate::mac::MacAddr;
use crate::subnet::Net;

/// A network's configuration, as clients see it.
pub type Config = BTreeMap<String, String>;

/// Keeps the bridge's hardware address the same for its whole life.
pub(crate) const HWADDR: &str = "volatile.bridge.hwaddr";

/// Keys that clients may set, besides `user.*`.
const KEYS: [&str; 13] = [
    "bridge.hwaddr",
    "bridge.mtu",
    "dns.domain",
    "dns.mode",
    "ipv4.address",
    "ipv4.dhcp",
    "ipv4.dhcp.ranges",
    "ipv4.nat",
    "ipv6.address",
    "ipv6.dhcp",
    "ipv6.nat",
    "raw.dnsmasq",
    HWADDR,
];

/// The domain of networks that set none: the one that scripts written for LXD expect.
const DOMAIN: &str = "lxd";

/// The most lines of dnsmasq configuration that a client may add, in bytes.
const MAX_RAW: usize = 64 * 1024;

/// How names are given to addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DnsMode {
    /// By the names of the instances.
    Managed,
    /// By the names that clients send.
    Dynamic,
    /// Not at all.
    None,
}

/// A bridge as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BridgeSpec {
    pub name: String,
    pub hwaddr: Option<MacAddr>,
    pub mtu: u32,
    pub ipv4: Option<Net>,
    pub ipv4_nat: bool,
    pub ipv4_dhcp: bool,
    pub ipv4_ranges: Vec<(Ipv4Addr, Ipv4Addr)>,
    pub ipv6: Option<Net>,
    pub ipv6_nat: bool,
    pub ipv6_dhcp: bool,
    pub domain: String,
    pub dns: DnsMode,
    pub raw_dnsmasq: String,
}

/// Whether this may be the name of a network, which is that of its bridge too.
pub(crate) fn check_name(name: &str) -> Result<(), NetworkError> {
    let legal = (2..=15).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        // Directories of that name exist below /proc/sys/net/ipv6/conf.
        && !["lo", "all", "default"].contains(&name);
    legal.then_some(()).ok_or_else(|| NetworkError::BadName(name.to_owned()))
}

/// Checks a configuration that has no `auto` in it any more.
pub(crate) fn parse(name: &str, config: &Config) -> Result<BridgeSpec, NetworkError> {
    check_name(name)?;
    for key in config.keys() {
        check_key(name, key)?;
    }
    let reader = Reader { name, config };
    let ipv4 = reader.net("ipv4.address", true)?;
    let ipv6 = reader.net("ipv6.address", false)?;
    let hwaddr = match reader.value("bridge.hwaddr", parse_mac)? {
        Some(mac) => Some(mac),
        None => reader.value(HWADDR, parse_mac)?,
    };
    let spec = BridgeSpec {
        name: name.to_owned(),
        hwaddr,
        mtu: reader.value("bridge.mtu", parse_mtu)?.unwrap_or(1500),
        ipv4,
        ipv4_nat: reader.flag("ipv4.nat", false)?,
        ipv4_dhcp: reader.flag("ipv4.dhcp", true)?,
        ipv4_ranges: reader.value("ipv4.dhcp.ranges", |text| parse_ranges(text, ipv4))?.unwrap_or_default(),
        ipv6,
        ipv6_nat: reader.flag("ipv6.nat", false)?,
        ipv6_dhcp: reader.flag("ipv6.dhcp", true)?,
        domain: reader.value("dns.domain", parse_domain)?.unwrap_or_else(|| DOMAIN.to_owned()),
        dns: reader.value("dns.mode", parse_dns_mode)?.unwrap_or(DnsMode::Managed),
        raw_dnsmasq: reader.value("raw.dnsmasq", parse_raw)?.unwrap_or_default(),
    };
    if spec.ipv6_dhcp && spec.ipv6.is_some_and(|net| net.prefix() != 64) {
        let reason = "addresses can only be given out in a /64; use one or set ipv6.dhcp=false".to_owned();
        return Err(reader.bad("ipv6.address", reason));
    }
    Ok(spec)
}

fn check_key(network: &str, key: &str) -> Result<(), NetworkError> {
    if KEYS.contains(&key) || key.strip_prefix("user.").is_some_and(|rest| !rest.is_empty()) {
        return Ok(());
    }
    let near = KEYS.iter().map(|known| (strsim::damerau_levenshtein(known, key), known)).min();
    let hint = match near {
        Some((distance, known)) if distance <= 4 => format!(": did you mean {known:?}?"),
        _ => ": `network show` lists the keys in use, keys of your own begin with \"user.\"".to_owned(),
    };
    Err(NetworkError::UnknownKey { network: network.to_owned(), key: key.to_owned(), hint })
}

struct Reader<'a> {
    name: &'a str,
    config: &'a Config,
}

impl Reader<'_> {
    fn bad(&self, key: &str, reason: String) -> NetworkError {
        let value = self.config.get(key).cloned().unwrap_or_default();
        NetworkError::BadValue { network: self.name.to_owned(), key: key.to_owned(), value, reason }
    }

    fn value<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, NetworkError> {
        let text = self.config.get(key).map(String::as_str).filter(|text| !text.is_empty());
        text.map(&parse).transpose().map_err(|reason| self.bad(key, reason))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, NetworkError> {
        Ok(self.value(key, parse_bool)?.unwrap_or(default))
    }

    fn net(&self, key: &str, ipv4: bool) -> Result<Option<Net>, NetworkError> {
        Ok(self
            .value(key, |text| if text == "none" { Ok(None) } else { parse_gateway(text, ipv4).map(Some) })?
            .flatten())
    }
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("it must be true or false".to_owned()),
    }
}

fn parse_mac(text: &str) -> Result<MacAddr, String> {
    let mac = MacAddr::from_str(text).map_err(|error| error.to_string())?;
    if mac.is_unicast() { Ok(mac) } else { Err("it must be the address of a single host".to_owned()) }
}

fn parse_mtu(text: &str) -> Result<u32, String> {
    // Below 1280 bytes there is no IPv6.
    let mtu = text.parse().ok().filter(|mtu| (1280..=65_535).contains(mtu));
    mtu.ok_or_else(|| "it must be a number from 1280 to 65535".to_owned())
}

fn parse_gateway(text: &str, ipv4: bool) -> Result<Net, String> {
    let net = Net::from_str(text)?;
    if net.addr().is_ipv4() != ipv4 {
        return Err(format!("it must be an {} address", if ipv4 { "IPv4" } else { "IPv6" }));
    }
    let (first, last) = net.hosts();
    let usable = net.addr() >= first && net.addr() <= last && net.addr() != net.network().addr();
    let special = net.addr().is_loopback() || net.addr().is_multicast() || net.addr().is_unspecified();
    if !usable || special || net.prefix() < 8 || first == last {
        return Err("it must be an address that the host can have, with the prefix of its subnet".to_owned());
    }
    Ok(net)
}

fn parse_ranges(text: &str, net: Option<Net>) -> Result<Vec<(Ipv4Addr, Ipv4Addr)>, String> {
    let parse = |range: &str| -> Result<(Ipv4Addr, Ipv4Addr), String> {
        let bad = || format!("{range:?} is not a range such as 10.1.2.100-10.1.2.200");
        let (first, last) = range.split_once('-').ok_or_else(bad)?;
        let first: Ipv4Addr = first.trim().parse().map_err(|_| bad())?;
        let last: Ipv4Addr = last.trim().parse().map_err(|_| bad())?;
        if first > last {
            return Err(format!("{range:?} ends before it begins"));
        }
        let inside = |addr: Ipv4Addr| net.is_some_and(|net| net.contains(IpAddr::V4(addr)));
        if !inside(first) || !inside(last) {
            return Err(format!("{range:?} is not in the subnet of ipv4.address"));
        }
        Ok((first, last))
    };
    text.split(',').map(|range| parse(range.trim())).collect()
}

fn parse_domain(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 200 && text.split('.').all(label) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("it must be a domain name such as lan or lab.example.org".to_owned())
    }
}

fn parse_dns_mode(text: &str) -> Result<DnsMode, String> {
    match text {
        "managed" => Ok(DnsMode::Managed),
        "dynamic" => Ok(DnsMode::Dynamic),
        "none" => Ok(DnsMode::None),
        _ => Err("it must be managed, dynamic or none".to_owned()),
    }
}

fn parse_raw(text: &str) -> Result<String, String> {
    if text.len() > MAX_RAW || text.contains('\0') {
        return Err(format!("it must be text of at most {MAX_RAW} bytes"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn reads_all_keys() {
        let spec = parse(
            "br-lab",
            &config(&[
                ("ipv4.address", "10.1.2.1/24"),
                ("ipv4.dhcp.ranges", "10.1.2.10-10.1.2.20, 10.1.2.30-10.1.2.40"),
                ("ipv4.nat", "Yes"),
                ("ipv6.address", "none"),
                ("dns.domain", "Lab"),
                ("dns.mode", "none"),
                ("bridge.mtu", "9000"),
                ("user.note", "hello"),
            ]),
        )
        .unwrap();
        assert_eq!((spec.ipv4_nat, spec.ipv6, spec.mtu, spec.ipv4_ranges.len()), (true, None, 9000, 2));
        assert_eq!((spec.domain.as_str(), spec.dns), ("lab", DnsMode::None));
    }

    #[test]
    fn refuses_with_a_reason() {
        let text = |pairs: &[(&str, &str)]| parse("br0", &config(pairs)).unwrap_err().to_string();
        assert!(text(&[("ipv4.adress", "x")]).contains("did you mean \"ipv4.address\"?"));
        assert!(text(&[("cats", "x")]).contains("user."));
        for (key, value) in [
            ("ipv4.address", "10.1.2.0/24"),
            ("ipv4.address", "10.1.2.255/24"),
            ("ipv4.address", "10.1.2.1"),
            ("ipv4.address", "fd42::1/64"),
            ("ipv4.address", "127.0.0.1/8"),
            ("ipv4.address", "10.1.2.1/32"),
            ("ipv6.address", "fd42::1/80"),
            ("ipv6.address", "fd42::/64"),
            ("ipv4.nat", "perhaps"),
            ("bridge.mtu", "100"),
            ("bridge.hwaddr", "01:00:00:00:00:00"),
            ("dns.domain", "a..b"),
            ("dns.domain", "x\ndhcp-script=/bin/sh"),
            ("dns.mode", "sometimes"),
            ("ipv4.dhcp.ranges", "10.1.2.10-10.1.2.20"),
            ("raw.dnsmasq", "a\0b"),
        ] {
            assert!(text(&[(key, value)]).contains(key), "{key}={value}");
        }
    }

    #[test]
    fn names_of_links_only() {
        for good in ["br", "berthbr0", "my-net_1.5", "abcdefghijklmno"] {
            check_name(good).unwrap();
        }
        for bad in ["", "b", "lo", "all", "0net", "a b", "a/b", "..", "abcdefghijklmnop", "brücke", "a\"b"] {
            check_name(bad).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn never_panics(key in 0..KEYS.len(), value in ".{0,40}") {
            let _ = parse("br0", &config(&[(KEYS[key], &value), ("ipv4.address", "10.1.2.1/24")]));
        }
    }
}
