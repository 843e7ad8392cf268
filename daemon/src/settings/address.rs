//! Addresses to listen on.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

/// Port unless another is given.
const PORT: u16 = 8443;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `None`: all that the host has.
    pub host: Option<IpAddr>,
    /// Port.
    pub port: u16,
}

impl Address {
    /// What to bind. All addresses of both families are one IPv6 socket.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.host.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), self.port)
    }

    /// Whether it stands for all addresses of the host.
    pub fn is_wildcard(&self) -> bool {
        self.host.is_none_or(|host| host.is_unspecified())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Some(host) => SocketAddr::new(host, self.port).fmt(f),
            None => write!(f, ":{}", self.port),
        }
    }
}

/// Reads `ADDRESS`, `ADDRESS:PORT` or `:PORT`; an IPv6 address with a port stands in brackets.
pub fn parse(text: &str) -> Result<Address, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(host) = bare.parse() {
        return Ok(Address { host: Some(host), port: PORT });
    }
    let bad = || {
        "it is ADDRESS, ADDRESS:PORT or :PORT with an IP address of the host, as :8443, 10.0.0.1 or [fd00::1]:8443"
            .to_owned()
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
    if host.is_empty() || host == "*" {
        return Ok(Address { host: None, port });
    }
    let socket: SocketAddr = text.parse().map_err(|_| bad())?;
    Ok(Address { host: Some(socket.ip()), port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_read_and_shown_whole() {
        for (text, shown, bound) in [
            (":8443", ":8443", "[::]:8443"),
            ("*:1", ":1", "[::]:1"),
            ("[::]", "[::]:8443", "[::]:8443"),
            ("::1", "[::1]:8443", "[::1]:8443"),
            ("10.0.0.1", "10.0.0.1:8443", "10.0.0.1:8443"),
            ("[fd00::1]:1", "[fd00::1]:1", "[fd00::1]:1"),
        ] {
            let address = parse(text).unwrap();
            assert_eq!((&*address.to_string(), &*address.socket().to_string()), (shown, bound));
            assert_eq!(parse(shown).unwrap(), address);
        }
        assert!(parse("0.0.0.0").unwrap().is_wildcard() && !parse("[::1]").unwrap().is_wildcard());
        for bad in ["", ":", ":0", ":65536", "host:8443", "1.2.3.4:", "[::1", "::1:x", "fe80::1%eth0"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_shown_so_that_it_is_read_again(text in "[0-9a-f:.*\\[\\]]{0,24}") {
            if let Ok(address) = parse(&text) {
                prop_assert_eq!(parse(&address.to_string()).unwrap(), address);
            }
        }
    }
}
