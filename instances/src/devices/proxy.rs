//! Proxies: `listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80`.

use std::net::{IpAddr, SocketAddr};

use berth_containers::spec::{Address, Proxy, Side, SocketOwner};

use super::{Keys, unix};

/// Permissions of a socket that names none, as LXD has them.
const MODE: u32 = 0o644;
/// Most ports of one list; the runtime takes fewer.
const PORTS_MAX: usize = 1024;

pub(super) fn parse(keys: &Keys<'_>) -> Result<Proxy, String> {
    keys.only(&[
        "listen",
        "connect",
        "bind",
        "nat",
        "proxy_protocol",
        "uid",
        "gid",
        "mode",
        "security.uid",
        "security.gid",
    ])?;
    if keys.flag("nat", false)? {
        return Err("nat=true is not supported by this version; leave it out, connections are passed on without".into());
    }
    let bind = keys.parsed("bind", side)?.unwrap_or(Side::Host);
    let required = |key: &str| {
        let parsed = keys.parsed(key, addresses)?;
        parsed.ok_or_else(|| format!("the key \"{key}\" is missing; use for example tcp:127.0.0.1:80 or unix:/run/x"))
    };
    let number = |key: &str| Ok::<_, String>(keys.parsed(key, unix::number)?.unwrap_or(0));
    let proxy = Proxy {
        bind,
        listen: required("listen")?,
        connect: required("connect")?,
        proxy_protocol: keys.flag("proxy_protocol", false)?,
        socket: SocketOwner {
            uid: number("uid")?,
            gid: number("gid")?,
            mode: keys.parsed("mode", unix::mode)?.unwrap_or(MODE),
        },
        uid: number("security.uid")?,
        gid: number("security.gid")?,
    };
    proxy.check()?;
    Ok(proxy)
}

fn side(word: &str) -> Result<Side, String> {
    match word {
        "host" => Ok(Side::Host),
        "instance" | "guest" | "container" => Ok(Side::Instance),
        _ => Err(format!("\"{word}\" is none of: host, instance")),
    }
}

/// Reads `tcp:ADDRESS:PORTS`, `udp:ADDRESS:PORTS` or `unix:PATH`; ports are a list of numbers and ranges.
fn addresses(text: &str) -> Result<Vec<Address>, String> {
    let complaint = || format!("\"{text}\" is not an address such as tcp:127.0.0.1:80, udp:[::1]:53 or unix:/run/x");
    let (kind, rest) = text.split_once(':').ok_or_else(complaint)?;
    let make: fn(SocketAddr) -> Address = match kind {
        "unix" => return Ok(vec![Address::Unix(rest.to_owned())]),
        "tcp" => Address::Tcp,
        "udp" => Address::Udp,
        _ => return Err(complaint()),
    };
    let (host, list) = rest.rsplit_once(':').ok_or_else(complaint)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host: IpAddr = match host {
        "" | "*" => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        host => host.parse().map_err(|_| format!("\"{host}\" is not an IP address; names are not looked up"))?,
    };
    Ok(ports(list).ok_or_else(complaint)?.into_iter().map(|port| make(SocketAddr::new(host, port))).collect())
}

fn ports(list: &str) -> Option<Vec<u16>> {
    let mut ports = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        if first == 0 || first > last || ports.len() + usize::from(last - first) >= PORTS_MAX {
            return None;
        }
        ports.extend(first..=last);
    }
    Some(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{Device, parse as parse_device};
    use crate::model::Kind;
    use proptest::prelude::*;

    fn proxy(pairs: &[(&str, &str)]) -> Result<Proxy, String> {
        let config = pairs.iter().chain(&[("type", "proxy")]).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        match parse_device("d0", &config.collect(), Some(Kind::Container))? {
            Device::Proxy(proxy) => Ok(proxy),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_and_ports_are_read() {
        let one = proxy(&[("listen", "tcp:0.0.0.0:80,90-91"), ("connect", "tcp:127.0.0.1:8080")]).unwrap();
        assert_eq!(one.listen.len(), 3);
        assert_eq!(one.listen[2], Address::Tcp("0.0.0.0:91".parse().unwrap()));
        assert_eq!((one.bind, one.socket.mode), (Side::Host, 0o644));
        let two = proxy(&[("listen", "unix:@abstract"), ("connect", "tcp:[::1]:5"), ("bind", "instance")]).unwrap();
        assert_eq!(two.connect, [Address::Tcp("[::1]:5".parse().unwrap())]);
        assert_eq!(two.bind, Side::Instance);
    }

    #[test]
    fn nonsense_is_refused() {
        for (listen, connect) in [
            ("tcp:1.2.3.4", "tcp:1.2.3.4:5"),
            ("tcp:1.2.3.4:0", "tcp:1.2.3.4:5"),
            ("tcp:host:1", "tcp:1.2.3.4:5"),
            ("udp:1.2.3.4:1", "tcp:1.2.3.4:5"),
            ("tcp:1.2.3.4:1-3", "tcp:1.2.3.4:1-2"),
            ("tcp:1.2.3.4:1-2000", "tcp:1.2.3.4:1"),
            ("unix:relative", "tcp:1.2.3.4:1"),
            ("sctp:1.2.3.4:1", "tcp:1.2.3.4:1"),
        ] {
            assert!(proxy(&[("listen", listen), ("connect", connect)]).is_err(), "{listen} {connect}");
        }
        assert!(proxy(&[("listen", "tcp::1"), ("connect", "tcp::1"), ("nat", "true")]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(text in "[a-z0-9:.,\\[\\]-]{0,24}") {
            let _ = addresses(&text);
        }
    }
}
