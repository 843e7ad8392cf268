//! Known network cards and given-out addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::dnsmasq::Files;
use crate::error::NetworkError;
use crate::files;
use crate::mac::MacAddr;

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseKind {
    /// The network's own address.
    Gateway,
    /// Set in the configuration of an instance.
    Static,
    /// Given out by DHCP.
    Dynamic,
}

/// An address in use on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Name of the instance, or empty.
    pub hostname: String,
    /// Hardware address, where it is known.
    pub hwaddr: Option<MacAddr>,
    /// The address.
    pub address: IpAddr,
    /// Where it comes from.
    pub kind: LeaseKind,
}

/// A network card that dnsmasq is told about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub mac: MacAddr,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub name: Option<String>,
}

impl Host {
    fn to_line(&self) -> String {
        let mut line = self.mac.to_string();
        if let Some(addr) = self.ipv4 {
            line.push_str(&format!(",{addr}"));
        }
        if let Some(addr) = self.ipv6 {
            line.push_str(&format!(",[{addr}]"));
        }
        if let Some(name) = &self.name {
            line.push_str(&format!(",{name}"));
        }
        line.push('\n');
        line
    }

    fn parse(line: &str) -> Option<Host> {
        let mut parts = line.trim().split(',');
        let mut host = Host { mac: parts.next()?.parse().ok()?, ipv4: None, ipv6: None, name: None };
        for part in parts {
            if let Ok(addr) = part.parse() {
                host.ipv4 = Some(addr);
            } else if let Some(addr) = part.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                host.ipv6 = addr.parse().ok();
            } else {
                host.name = Some(part.to_owned());
            }
        }
        Some(host)
    }
}

/// The name of an instance on its networks, if it has one that names may have.
///
/// Outside the default project it carries the project's, so that two instances of the same name do not meet.
pub(crate) fn host_name(project: &str, instance: &str) -> Option<String> {
    let name = if project == "default" { instance.to_owned() } else { format!("{instance}--{project}") };
    let legal = (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    legal.then_some(name)
}

/// Makes a network card known; `true` if that changed anything.
pub(crate) async fn remember(paths: &Files, host: &Host) -> Result<bool, NetworkError> {
    let path = paths.hosts().join(host.mac.digits());
    let line = host.to_line();
    if files::read(&path).await?.as_ref() == Some(&line) {
        return Ok(false);
    }
    files::write(&path, &line).await?;
    Ok(true)
}

/// Forgets a network card; `false` if it was not known.
pub(crate) async fn forget(paths: &Files, mac: MacAddr) -> Result<bool, NetworkError> {
    files::remove(&paths.hosts().join(mac.digits())).await
}

/// The addresses in use, besides those of the gateway.
pub(crate) async fn list(paths: &Files) -> Result<Vec<Lease>, NetworkError> {
    let hosts = hosts(&paths.hosts()).await?;
    let text = files::read(&paths.leases()).await?.unwrap_or_default();
    let mut found: BTreeMap<IpAddr, Lease> =
        parse(&text, &hosts).into_iter().map(|lease| (lease.address, lease)).collect();
    for host in &hosts {
        for address in [host.ipv4.map(IpAddr::V4), host.ipv6.map(IpAddr::V6)].into_iter().flatten() {
            let (hostname, hwaddr) = (host.name.clone().unwrap_or_default(), Some(host.mac));
            found.insert(address, Lease { hostname, hwaddr, address, kind: LeaseKind::Static });
        }
    }
    Ok(found.into_values().collect())
}

async fn hosts(dir: &Path) -> Result<Vec<Host>, NetworkError> {
    let mut hosts = Vec::new();
    let mut entries = match tokio::fs::read_dir(dir).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(hosts),
        Err(error) => return Err(NetworkError::path(dir)(error)),
    };
    while let Some(entry) = entries.next_entry().await.map_err(NetworkError::path(dir))? {
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            hosts.extend(files::read(&entry.path()).await?.as_deref().and_then(Host::parse));
        }
    }
    Ok(hosts)
}

/// Reads dnsmasq's file of leases: IPv4 first, then (after a line with the server's identifier) IPv6.
fn parse(text: &str, hosts: &[Host]) -> Vec<Lease> {
    let lease = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_expiry, hardware, address, name, ..] = fields[..] else { return None };
        let address: IpAddr = address.parse().ok()?;
        // With IPv6 this field is a number that says nothing about the card.
        let hwaddr: Option<MacAddr> = hardware.parse().ok().filter(|_| address.is_ipv4());
        let known = hosts.iter().find(|host| Some(host.mac) == hwaddr).and_then(|host| host.name.clone());
        let hostname = known.unwrap_or_else(|| if name == "*" { String::new() } else { name.to_owned() });
        Some(Lease { hostname, hwaddr, address, kind: LeaseKind::Dynamic })
    };
    text.lines().filter_map(lease).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_leases() {
        let text = "1700000000 00:16:3e:00:00:01 10.1.2.3 c1 01:00:16:3e:00:00:01\n\
                    1700000000 00:16:3e:00:00:02 10.1.2.4 * *\n\
                    duid 00:01:00:01:2a\n\
                    1700000000 4660 fd42::5 c1 00:01\n\
                    rubbish\n";
        let hosts = [Host::parse("00:16:3e:00:00:02,c2\n").unwrap()];
        let leases = parse(text, &hosts);
        let names: Vec<(&str, String)> = leases.iter().map(|l| (l.hostname.as_str(), l.address.to_string())).collect();
        assert_eq!(names, [("c1", "10.1.2.3".into()), ("c2", "10.1.2.4".into()), ("c1", "fd42::5".into())]);
        assert_eq!(leases[2].hwaddr, None);
    }

    #[test]
    fn names_are_labels() {
        assert_eq!(host_name("default", "web-1").as_deref(), Some("web-1"));
        assert_eq!(host_name("lab", "web-1").as_deref(), Some("web-1--lab"));
        for bad in ["", "a,b", "a\nb", "-a", &"x".repeat(64)] {
            assert_eq!(host_name("default", bad), None);
        }
    }

    proptest! {
        #[test]
        fn hosts_round_trip(mac: [u8; 6], ipv4: Option<u32>, ipv6: Option<u128>, name in proptest::option::of("[a-z][a-z0-9-]{0,20}[a-z]")) {
            let host = Host {
                mac: MacAddr(mac),
                ipv4: ipv4.map(Ipv4Addr::from_bits),
                ipv6: ipv6.map(Ipv6Addr::from_bits),
                name,
            };
            prop_assert_eq!(Host::parse(&host.to_line()), Some(host));
        }

        #[test]
        fn never_panics(text in "[0-9a-f:. *\n]{0,80}") {
            parse(&text, &[]);
        }
    }
}
