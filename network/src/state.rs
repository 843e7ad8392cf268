//! What a network is doing.

use std::net::IpAddr;

use rtnetlink::packet_route::address::AddressScope;

use crate::config::{self, Config};
use crate::dnsmasq::Files;
use crate::document;
use crate::error::NetworkError;
use crate::leases::{self, Lease, LeaseKind};
use crate::link::Counters;
use crate::mac::MacAddr;
use crate::manager::Networks;

/// The state of a network's link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkState {
    /// Hardware address.
    pub hwaddr: Option<MacAddr>,
    /// Longest packet.
    pub mtu: u32,
    /// `up` or `down`.
    pub state: String,
    /// `broadcast` or `loopback`.
    pub kind: String,
    /// Its addresses.
    pub addresses: Vec<StateAddress>,
    /// Its traffic.
    pub counters: Counters,
}

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateAddress {
    /// `inet` or `inet6`.
    pub family: String,
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix.
    pub prefix: u8,
    /// `global`, `link` or `local`.
    pub scope: String,
}

impl Networks {
    /// The state of a network, managed or not.
    pub async fn state(&self, name: &str) -> Result<NetworkState, NetworkError> {
        let failed = || NetworkError::link(format!("read the state of network {name:?}"));
        let Some(link) = self.inner.links.find(name).await.map_err(failed())? else {
            let managed = document::by_name(&*self.inner.store, name).await?;
            return match managed {
                None => Err(NetworkError::NotFound(name.to_owned())),
                Some(_) => Err(NetworkError::Unavailable {
                    network: name.to_owned(),
                    reason: self.inner.runtime.failure(name).unwrap_or_else(|| "its bridge is gone".to_owned()),
                }),
            };
        };
        let addresses = self.inner.links.addresses(link.index).await.map_err(failed())?;
        let addresses = addresses.into_iter().map(|address| StateAddress {
            family: if address.net.addr().is_ipv4() { "inet" } else { "inet6" }.to_owned(),
            address: address.net.addr(),
            prefix: address.net.prefix(),
            scope: match address.scope {
                AddressScope::Universe => "global",
                AddressScope::Host => "local",
                _ => "link",
            }
            .to_owned(),
        });
        Ok(NetworkState {
            hwaddr: link.mac,
            mtu: link.mtu,
            state: if link.up { "up" } else { "down" }.to_owned(),
            kind: if link.loopback { "loopback" } else { "broadcast" }.to_owned(),
            addresses: addresses.collect(),
            counters: link.counters,
        })
    }

    /// The addresses in use on a managed network, the gateway's first.
    pub async fn leases(&self, name: &str) -> Result<Vec<Lease>, NetworkError> {
        let stored = document::by_name(&*self.inner.store, name).await?;
        let stored = stored.ok_or_else(|| NetworkError::NotFound(name.to_owned()))?;
        let mut all = gateways(name, &stored.doc.config)?;
        all.extend(leases::list(&Files::new(&self.inner.dir_of(name))).await?);
        Ok(all)
    }
}

fn gateways(name: &str, config: &Config) -> Result<Vec<Lease>, NetworkError> {
    let spec = config::parse(name, config)?;
    let lease = |address| Lease {
        hostname: format!("_gateway.{}", spec.domain),
        hwaddr: spec.hwaddr,
        address,
        kind: LeaseKind::Gateway,
    };
    Ok(spec.ipv4.into_iter().chain(spec.ipv6).map(|net| lease(net.addr())).collect())
}
