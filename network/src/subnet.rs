//! Subnets, and how free ones are found.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rand::Rng;

/// How many random subnets are tried.
const ATTEMPTS: usize = 1000;

/// An address with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Net {
    addr: IpAddr,
    prefix: u8,
}

impl Net {
    /// Makes one, if the prefix is not too long.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Net> {
        (u32::from(prefix) <= width(addr)).then_some(Net { addr, prefix })
    }

    /// The address.
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Length of the prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The network's own address, with the prefix.
    pub fn network(&self) -> Net {
        let (low, _) = self.bounds();
        Net { addr: from_bits(low, self.addr), prefix: self.prefix }
    }

    /// Whether `addr` is in the network.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let (low, high) = self.bounds();
        self.addr.is_ipv4() == addr.is_ipv4() && (low..=high).contains(&bits(addr))
    }

    /// Whether the two networks share an address.
    pub fn overlaps(&self, other: &Net) -> bool {
        self.contains(other.network().addr) || other.contains(self.network().addr)
    }

    /// First and last address of the network that a host can have.
    pub fn hosts(&self) -> (IpAddr, IpAddr) {
        let (low, high) = self.bounds();
        let edge = u128::from(high - low >= 3 && self.addr.is_ipv4());
        (from_bits(low + edge, self.addr), from_bits(high - edge, self.addr))
    }

    fn bounds(&self) -> (u128, u128) {
        let host = width(self.addr) - u32::from(self.prefix);
        let mask = if host == 128 { u128::MAX } else { (1 << host) - 1 };
        let bits = bits(self.addr);
        (bits & !mask, bits | mask)
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Net, String> {
        let bad = || format!("{text:?} is not an address with a prefix, such as 10.1.2.1/24 or fd42::1/64");
        let (addr, prefix) = text.split_once('/').ok_or_else(bad)?;
        let digits = (1..=3).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = digits.then(|| prefix.parse().ok()).flatten().ok_or_else(bad)?;
        Net::new(addr.parse().map_err(|_| bad())?, prefix).ok_or_else(bad)
    }
}

fn width(addr: IpAddr) -> u32 {
    if addr.is_ipv4() { 32 } else { 128 }
}

fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u128::from(addr.to_bits()),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

/// The address of these bits, of the same family as `like`.
fn from_bits(bits: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// A random /24 of 10.0.0.0/8 that overlaps none of `taken`, with the gateway's address.
pub fn free_ipv4(taken: &[Net]) -> Option<Net> {
    pick(taken, |rng| (Ipv4Addr::new(10, rng.random(), rng.random(), 1).into(), 24))
}

/// A random /64 of private addresses that overlaps none of `taken`, with the gateway's address.
pub fn free_ipv6(taken: &[Net]) -> Option<Net> {
    pick(taken, |rng| (Ipv6Addr::new(0xfd42, rng.random(), rng.random(), rng.random(), 0, 0, 0, 1).into(), 64))
}

fn pick(taken: &[Net], candidate: impl Fn(&mut rand::rngs::ThreadRng) -> (IpAddr, u8)) -> Option<Net> {
    let mut rng = rand::rng();
    (0..ATTEMPTS)
        .filter_map(|_| {
            let (addr, prefix) = candidate(&mut rng);
            Net::new(addr, prefix)
        })
        .find(|net| !taken.iter().any(|other| net.overlaps(other)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> Net {
        text.parse().unwrap()
    }

    #[test]
    fn knows_its_bounds() {
        assert_eq!(net("10.1.2.7/24").network().to_string(), "10.1.2.0/24");
        let (first, last) = net("10.1.2.7/24").hosts();
        assert_eq!((first.to_string(), last.to_string()), ("10.1.2.1".into(), "10.1.2.254".into()));
        assert!(net("0.0.0.0/0").contains("9.9.9.9".parse().unwrap()));
        assert!(net("::/0").contains("fd42::".parse().unwrap()));
        assert!(!net("::/0").contains("9.9.9.9".parse().unwrap()));
        assert!(net("10.0.0.0/8").overlaps(&net("10.1.2.0/24")) && net("10.1.2.0/24").overlaps(&net("10.0.0.0/8")));
        assert!(!net("10.1.2.0/24").overlaps(&net("10.1.3.0/24")));
    }

    #[test]
    fn free_ones_avoid_what_is_taken() {
        let nearly_all: Vec<Net> = (0..=255).filter(|i| *i != 77).map(|i| net(&format!("10.{i}.0.0/16"))).collect();
        let found = free_ipv4(&nearly_all).unwrap();
        assert!(net("10.77.0.0/16").contains(found.addr()));
        assert_eq!(free_ipv4(&[net("10.0.0.0/8")]), None);
        assert_eq!(free_ipv6(&[net("10.0.0.0/8")]).unwrap().prefix(), 64);
    }

    proptest! {
        #[test]
        fn round_trip(bits: u128, prefix in 0..=128u8) {
            let net = Net::new(Ipv6Addr::from_bits(bits).into(), prefix).unwrap();
            prop_assert_eq!(net.to_string().parse(), Ok(net));
            prop_assert!(net.contains(net.addr()) && net.overlaps(&net.network()));
            let (first, last) = net.hosts();
            prop_assert!(net.contains(first) && net.contains(last) && first <= last);
        }

        #[test]
        fn never_panics(text in "[0-9a-f:./+-]{0,24}") {
            if let Ok(net) = text.parse::<Net>() {
                net.network();
                net.hosts();
            }
        }
    }
}
