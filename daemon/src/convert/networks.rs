//! Networks.

use berth_api::networks::{
    Network as WireNetwork, NetworkLease, NetworkPut, NetworkState as WireState, NetworkStateAddress,
    NetworkStateCounters,
};
use berth_network::{Lease, LeaseKind, Network, NetworkState};

/// A network or a link of the host.
pub fn network(network: &Network, used_by: Vec<String>) -> WireNetwork {
    WireNetwork {
        config: network.config.clone(),
        description: network.description.clone(),
        name: network.name.clone(),
        kind: network.kind.clone(),
        used_by,
        managed: network.managed,
        status: network.status.clone(),
        locations: if network.managed { vec!["none".to_owned()] } else { Vec::new() },
    }
}

/// The part that a `PUT` may change.
pub fn put(network: &Network) -> NetworkPut {
    NetworkPut { config: network.config.clone(), description: network.description.clone() }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What the network does now.
pub fn state(state: &NetworkState) -> WireState {
    let addresses = state.addresses.iter().map(|address| NetworkStateAddress {
        family: address.family.clone(),
        address: address.address.to_string(),
        netmask: address.prefix.to_string(),
        scope: address.scope.clone(),
    });
    WireState {
        addresses: addresses.collect(),
        counters: NetworkStateCounters {
            bytes_received: signed(state.counters.bytes_received),
            bytes_sent: signed(state.counters.bytes_sent),
            packets_received: signed(state.counters.packets_received),
            packets_sent: signed(state.counters.packets_sent),
        },
        hwaddr: state.hwaddr.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: i64::from(state.mtu),
        state: state.state.clone(),
        kind: state.kind.clone(),
        ..WireState::default()
    }
}

/// An address in use.
pub fn lease(lease: &Lease) -> NetworkLease {
    NetworkLease {
        hostname: lease.hostname.clone(),
        hwaddr: lease.hwaddr.map(|mac| mac.to_string()).unwrap_or_default(),
        address: lease.address.to_string(),
        kind: match lease.kind {
            LeaseKind::Gateway => "gateway",
            LeaseKind::Static => "static",
            LeaseKind::Dynamic => "dynamic",
        }
        .to_owned(),
        location: "none".to_owned(),
    }
}
