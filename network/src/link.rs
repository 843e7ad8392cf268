//! Links, addresses and routes, by netlink.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, State,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::mac::MacAddr;
use crate::subnet::Net;

/// The links of the network namespace that the daemon runs in.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    handle: Handle,
}

/// One link.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub kind: Option<InfoKind>,
    pub ethernet: bool,
    pub loopback: bool,
    pub mac: Option<MacAddr>,
    pub mtu: u32,
    pub up: bool,
    pub running: bool,
    pub controller: Option<u32>,
    pub counters: Counters,
}

/// Traffic of a link, as the host sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes that came in.
    pub bytes_received: u64,
    /// Bytes that went out.
    pub bytes_sent: u64,
    /// Packets that came in.
    pub packets_received: u64,
    /// Packets that went out.
    pub packets_sent: u64,
}

/// One address of a link.
#[derive(Clone, Debug)]
pub(crate) struct LinkAddress {
    pub net: Net,
    pub scope: AddressScope,
    message: AddressMessage,
}

/// What a pair of virtual Ethernet links is to be.
#[derive(Debug)]
pub(crate) struct VethSpec<'a> {
    pub host_name: &'a str,
    pub bridge: u32,
    pub mtu: u32,
    pub peer_name: &'a str,
    pub peer_mac: MacAddr,
    pub netns: BorrowedFd<'a>,
}

impl Links {
    /// Connects to the kernel; must be called within a runtime.
    pub(crate) fn connect() -> io::Result<Links> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        // Ends by itself when the last handle is dropped.
        tokio::spawn(connection);
        Ok(Links { handle })
    }

    /// A way to talk to the kernel.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// All links.
    pub(crate) async fn list(&self) -> io::Result<Vec<Link>> {
        let messages: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await.map_err(to_io)?;
        Ok(messages.into_iter().map(Link::from).collect())
    }

    /// The link of this name.
    pub(crate) async fn find(&self, name: &str) -> io::Result<Option<Link>> {
        let found = self.handle.link().get().match_name(name).execute().try_next().await;
        match found.map_err(to_io) {
            Ok(message) => Ok(message.map(Link::from)),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a bridge, which is up; fails with `AlreadyExists` if the name is taken.
    pub(crate) async fn add_bridge(&self, name: &str, mac: MacAddr, mtu: u32) -> io::Result<()> {
        let message = LinkBridge::new(name).address(mac.0.to_vec()).mtu(mtu).build();
        self.handle.link().add(message).execute().await.map_err(to_io)
    }

    /// Makes a pair in one step: the host's end up and in the bridge, the other in its namespace under its final name.
    pub(crate) async fn add_veth(&self, spec: &VethSpec<'_>) -> io::Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(spec.peer_name)
            .address(spec.peer_mac.0.to_vec())
            .mtu(spec.mtu)
            .setns_by_fd(spec.netns.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(spec.host_name)
            .mtu(spec.mtu)
            .controller(spec.bridge)
            .up()
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.handle.link().add(message).execute().await.map_err(to_io)
    }

    /// Puts a link into a bridge and brings it up.
    pub(crate) async fn join(&self, index: u32, bridge: u32, mtu: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).controller(bridge).up().build();
        self.handle.link().change(message).execute().await.map_err(to_io)
    }

    /// Sets the MTU and brings the link up.
    pub(crate) async fn raise(&self, index: u32, mtu: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        self.handle.link().change(message).execute().await.map_err(to_io)
    }

    /// Removes a link.
    pub(crate) async fn delete(&self, index: u32) -> io::Result<()> {
        match self.handle.link().del(index).execute().await.map_err(to_io) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            done => done,
        }
    }

    /// The addresses of a link.
    pub(crate) async fn addresses(&self, index: u32) -> io::Result<Vec<LinkAddress>> {
        let request = self.handle.address().get().set_link_index_filter(index);
        let messages: Vec<AddressMessage> = request.execute().try_collect().await.map_err(to_io)?;
        Ok(messages.into_iter().filter(|m| m.header.index == index).filter_map(LinkAddress::new).collect())
    }

    /// Gives a link an address.
    pub(crate) async fn add_address(&self, index: u32, net: Net) -> io::Result<()> {
        self.handle.address().add(index, net.addr(), net.prefix()).execute().await.map_err(to_io)
    }

    /// Takes an address from a link.
    pub(crate) async fn remove_address(&self, address: LinkAddress) -> io::Result<()> {
        self.handle.address().del(address.message).execute().await.map_err(to_io)
    }

    /// Everything that the host has a route to (default routes apart), with the link that it goes through.
    pub(crate) async fn routes(&self) -> io::Result<Vec<(Net, Option<u32>)>> {
        let ipv4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let ipv6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        let mut routes = Vec::new();
        for family in [ipv4, ipv6] {
            let found = self.handle.route().get(family).execute().try_collect::<Vec<RouteMessage>>().await;
            match found.map_err(to_io) {
                Ok(messages) => routes.extend(messages.iter().filter_map(route)),
                // A kernel without this family.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(routes)
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Link {
        let flags = message.header.flags;
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            kind: None,
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            loopback: flags.contains(LinkFlags::Loopback),
            mac: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            running: false,
            controller: None,
            counters: Counters::default(),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(octets) => link.mac = octets.try_into().ok().map(MacAddr),
                LinkAttribute::OperState(state) => link.running = matches!(state, State::Up | State::Unknown),
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                LinkAttribute::Stats64(stats) => {
                    link.counters = Counters {
                        bytes_received: stats.rx_bytes,
                        bytes_sent: stats.tx_bytes,
                        packets_received: stats.rx_packets,
                        packets_sent: stats.tx_packets,
                    };
                }
                _ => {}
            }
        }
        link
    }
}

impl LinkAddress {
    fn new(message: AddressMessage) -> Option<LinkAddress> {
        let mut addr: Option<IpAddr> = None;
        for attribute in &message.attributes {
            match attribute {
                // On a point-to-point link the other one is the peer's.
                AddressAttribute::Local(local) => addr = Some(*local),
                AddressAttribute::Address(any) => addr = addr.or(Some(*any)),
                _ => {}
            }
        }
        let net = Net::new(addr?, message.header.prefix_len)?;
        Some(LinkAddress { net, scope: message.header.scope, message })
    }
}

fn route(message: &RouteMessage) -> Option<(Net, Option<u32>)> {
    let mut destination = None;
    let mut link = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(addr)) => destination = Some(IpAddr::V4(*addr)),
            RouteAttribute::Destination(RouteAddress::Inet6(addr)) => destination = Some(IpAddr::V6(*addr)),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    Net::new(destination?, message.header.destination_prefix_length)
        .filter(|net| net.prefix() > 0)
        .map(|net| (net, link))
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
