//! Interfaces as told by rtnetlink.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::protocol::{Address, Counters, Interface};

/// The kernel sends dumps in packets of at most 32 KiB.
const PACKET: usize = 64 * 1024;

const NLMSG_HEADER: usize = 16;
const IFINFO: usize = 16;
const IFADDR: usize = 8;

/// All interfaces of the calling thread's network namespace by name.
pub(super) fn interfaces() -> io::Result<BTreeMap<String, Interface>> {
    // No protocol means protocol 0, which is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut links: BTreeMap<i32, (String, Interface)> = BTreeMap::new();
    dump(&socket, libc::RTM_GETLINK, IFINFO, |message| {
        if let Some((index, name, interface)) = link(message) {
            links.insert(index, (name, interface));
        }
    })?;
    dump(&socket, libc::RTM_GETADDR, IFADDR, |message| {
        if let Some((index, address)) = address(message)
            && let Some((_, interface)) = links.get_mut(&index)
        {
            interface.addresses.push(address);
        }
    })?;
    Ok(links.into_values().collect())
}

/// Sends a dump request and hands each message of the answer (without its header) to `each`.
fn dump(socket: &OwnedFd, kind: u16, body: usize, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut request = vec![0; NLMSG_HEADER + body];
    let length = request.len() as u32;
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&kind.to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    rustix::net::send(socket, &request, SendFlags::empty())?;
    let mut packet = vec![0; PACKET];
    loop {
        let (received, _) = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *packet, RecvFlags::empty()))?;
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (kind, message) in messages(&packet[..received]) {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    let code = message.get(..4).map_or(0, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => each(message),
            }
        }
    }
}

/// Splits a packet into its messages: type and body.
fn messages(packet: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = packet;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(rest.get(0..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let body = rest.get(NLMSG_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Splits a list of attributes: type and value.
fn attributes(list: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = list;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & 0x3fff, value))
    })
}

fn link(message: &[u8]) -> Option<(i32, String, Interface)> {
    let index = i32::from_ne_bytes(message.get(4..8)?.try_into().ok()?);
    let flags = u32::from_ne_bytes(message.get(8..12)?.try_into().ok()?) as i32;
    let mut name = None;
    let mut interface = Interface {
        state: if flags & libc::IFF_UP != 0 { "up" } else { "down" }.into(),
        kind: if flags & libc::IFF_LOOPBACK != 0 {
            "loopback"
        } else if flags & libc::IFF_POINTOPOINT != 0 {
            "point-to-point"
        } else if flags & libc::IFF_BROADCAST != 0 {
            "broadcast"
        } else {
            "unknown"
        }
        .into(),
        ..Interface::default()
    };
    for (kind, value) in attributes(message.get(IFINFO..)?) {
        match kind {
            libc::IFLA_IFNAME => name = Some(text(value)),
            libc::IFLA_MTU => interface.mtu = u32::from_ne_bytes(value.try_into().ok()?),
            libc::IFLA_ADDRESS if flags & libc::IFF_LOOPBACK == 0 => interface.hwaddr = hardware_address(value),
            libc::IFLA_STATS64 => interface.counters = counters(value),
            _ => {}
        }
    }
    Some((index, name?, interface))
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn hardware_address(value: &[u8]) -> String {
    value.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

fn counters(value: &[u8]) -> Counters {
    // The first eight fields of struct rtnl_link_stats64.
    let field = |i: usize| {
        value.get(i * 8..i * 8 + 8).map_or(0, |b| u64::from_ne_bytes(b.try_into().expect("eight bytes were sliced")))
    };
    Counters {
        packets_received: field(0),
        packets_sent: field(1),
        bytes_received: field(2),
        bytes_sent: field(3),
        errors_received: field(4),
        errors_sent: field(5),
        packets_dropped_inbound: field(6),
        packets_dropped_outbound: field(7),
    }
}

fn address(message: &[u8]) -> Option<(i32, Address)> {
    let (family, prefix, scope) = (*message.first()?, *message.get(1)?, *message.get(3)?);
    let index = i32::from_ne_bytes(message.get(4..8)?.try_into().ok()?);
    let (mut local, mut peer) = (None, None);
    for (kind, value) in attributes(message.get(IFADDR..)?) {
        match kind {
            libc::IFA_LOCAL => local = ip(value),
            libc::IFA_ADDRESS => peer = ip(value),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other end's.
    let address = local.or(peer)?;
    let family = if i32::from(family) == libc::AF_INET6 { "inet6" } else { "inet" };
    let scope = match scope {
        libc::RT_SCOPE_HOST => "local",
        libc::RT_SCOPE_LINK => "link",
        _ => "global",
    };
    let address = Address {
        family: family.into(),
        address: address.to_string(),
        netmask: prefix.to_string(),
        scope: scope.into(),
    };
    Some((index, address))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(value).ok().map(|v6| Ipv6Addr::from(v6).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn loopback_is_there_without_a_hardware_address() {
        let interfaces = interfaces().unwrap();
        let lo = &interfaces["lo"];
        assert_eq!((lo.kind.as_str(), lo.hwaddr.as_str()), ("loopback", ""));
        assert!(lo.mtu > 0);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (_, message) in messages(&bytes) {
                let _ = (link(message), address(message));
            }
            let _ = (link(&bytes), address(&bytes));
        }
    }
}
