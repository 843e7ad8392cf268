//! Addresses under which clients reach the daemon.

use std::net::{IpAddr, SocketAddr};

use crate::settings::Address;

/// Addresses with ports, without those that only this host knows unless it listens on such a one.
pub fn reachable(address: &Address) -> Vec<String> {
    if let (Some(host), false) = (address.host, address.is_wildcard()) {
        return vec![SocketAddr::new(host, address.port).to_string()];
    }
    let only_v4 = address.host.is_some_and(|host| host.is_ipv4());
    let usable = |host: &IpAddr| match host {
        IpAddr::V4(host) => !host.is_loopback() && !host.is_link_local(),
        IpAddr::V6(host) => !only_v4 && !host.is_loopback() && !host.is_unicast_link_local(),
    };
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot tell the addresses of this host");
        Vec::new()
    });
    let hosts = interfaces.iter().map(if_addrs::Interface::ip).filter(usable);
    hosts.map(|host| SocketAddr::new(host, address.port).to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_told_as_it_is() {
        let address = Address { host: Some("127.0.0.1".parse().unwrap()), port: 8443 };
        assert_eq!(reachable(&address), ["127.0.0.1:8443"]);
        let all = reachable(&Address { host: None, port: 1 });
        assert!(all.iter().all(|address| !address.starts_with("127.") && !address.starts_with("[::1]")), "{all:?}");
    }
}
