//! Networks: bridges with addresses, names and a firewall, and the network cards of instances on them.
//!
//! A network is a document in the store, a bridge of the same name on the host, one nftables table, one dnsmasq and a
//! directory. [`Networks`] makes the host look like the documents: what is missing is made, what is right is not
//! touched, so that a restart of the daemon disturbs no packet. Instances hang on a bridge by a veth pair (containers)
//! or a tap (virtual machines); neither needs the daemon to go on.

mod bridge;
mod config;
mod dnsmasq;
mod document;
mod error;
mod files;
mod firewall;
mod leases;
mod limits;
mod link;
mod mac;
mod manager;
mod nic;
mod pidfd;
mod runtime;
mod shape;
mod state;
mod subnet;
mod sysctl;
mod tap;

pub use config::Config;
pub use error::NetworkError;
pub use leases::{Lease, LeaseKind};
pub use limits::NicLimits;
pub use link::Counters;
pub use mac::{BadMac, MacAddr};
pub use manager::{Network, Networks};
pub use nic::{Nic, NicRequest};
pub use state::{NetworkState, StateAddress};
pub use subnet::{Net, free_ipv4, free_ipv6};
