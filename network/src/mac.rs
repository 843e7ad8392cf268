//! Hardware addresses.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use rand::Rng;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// Not an Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a hardware address such as 00:16:3e:12:34:56")]
pub struct BadMac(String);

impl MacAddr {
    /// A random address with the prefix of virtual machines and containers.
    pub fn random() -> MacAddr {
        let [a, b, c] = rand::rng().random();
        MacAddr([0x00, 0x16, 0x3e, a, b, c])
    }

    /// A random address of a bridge: locally administered, with 40 random bits, so that it also tells whose it is.
    pub(crate) fn random_local() -> MacAddr {
        let [a, b, c, d, e] = rand::rng().random();
        MacAddr([0x02, a, b, c, d, e])
    }

    /// Whether a single host can have it.
    pub fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// The address that stateless configuration derives from it in `prefix` (a /64).
    pub fn slaac(&self, prefix: Ipv6Addr) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        let mut octets = prefix.octets();
        octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
        Ipv6Addr::from(octets)
    }

    /// The digits without separators.
    pub(crate) fn digits(&self) -> String {
        self.to_string().replace(':', "")
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for MacAddr {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<MacAddr, BadMac> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
            *octet = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(|| BadMac(text.to_owned()))?;
        }
        if parts.next().is_some() {
            return Err(BadMac(text.to_owned()));
        }
        Ok(MacAddr(octets))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parses_and_prints() {
        let mac: MacAddr = "00:16:3E:a0:0b:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "00:16:3e:a0:0b:ff");
        assert_eq!(mac.slaac("fd42:1:2:3::1".parse().unwrap()).to_string(), "fd42:1:2:3:216:3eff:fea0:bff");
        for bad in ["", "00:16:3e:a0:0b", "00:16:3e:a0:0b:ff:00", "0:16:3e:a0:0b:ff", "+0:16:3e:a0:0b:ff", "xyz"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
        assert!(MacAddr::random().is_unicast() && MacAddr::random_local().is_unicast());
        assert!(!MacAddr([0xff; 6]).is_unicast());
    }

    proptest! {
        #[test]
        fn round_trip(octets: [u8; 6]) {
            prop_assert_eq!(MacAddr(octets).to_string().parse(), Ok(MacAddr(octets)));
        }

        #[test]
        fn never_panics(text in ".{0,24}") {
            let _ = text.parse::<MacAddr>();
        }
    }
}
