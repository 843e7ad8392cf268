//! Messages of DHCP (RFC 2131, RFC 2132).

use std::net::Ipv4Addr;

/// Port of the client.
pub const CLIENT_PORT: u16 = 68;
/// Port of the server.
pub const SERVER_PORT: u16 = 67;
/// Largest message that is taken.
pub const MESSAGE_MAX: usize = 1500;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Where the options begin, after the cookie.
const OPTIONS: usize = 240;
/// Servers answer by broadcast, because an interface without an address takes nothing else.
const BROADCAST: u16 = 0x8000;
/// Most name servers that are kept; resolvers look at no more (resolv.conf(5)).
const NAME_SERVERS_MAX: usize = 3;

/// Numbers of options.
mod option {
    pub const MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const NAME_SERVERS: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const WANTED_ADDRESS: u8 = 50;
    pub const LEASE: u8 = 51;
    pub const KIND: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const PARAMETERS: u8 = 55;
}

/// What a client says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Is there a server?
    Discover,
    /// Takes an offer.
    Take {
        /// Address that was offered.
        address: Ipv4Addr,
        /// Who offered it.
        server: Ipv4Addr,
    },
    /// Wants to keep its address.
    Renew(Ipv4Addr),
}

/// What a server grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The client's address.
    pub address: Ipv4Addr,
    /// Mask of its network.
    pub mask: Ipv4Addr,
    /// Way to everywhere else.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub name_servers: Vec<Ipv4Addr>,
    /// Domain of names without one.
    pub domain: Option<String>,
    /// Who grants it.
    pub server: Ipv4Addr,
    /// For how many seconds.
    pub seconds: u32,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An offer.
    Offer(Lease),
    /// A grant.
    Granted(Lease),
    /// A refusal.
    Refused,
}

/// A message of the client with hardware address `mac`.
pub fn message(say: Say, transaction: u32, mac: [u8; 6], host_name: &str) -> Vec<u8> {
    let mut message = vec![0; OPTIONS];
    // BOOTREQUEST, Ethernet, length of its addresses.
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[4..8].copy_from_slice(&transaction.to_be_bytes());
    message[10..12].copy_from_slice(&BROADCAST.to_be_bytes());
    message[28..34].copy_from_slice(&mac);
    message[236..240].copy_from_slice(&COOKIE);
    let mut option = |number: u8, value: &[u8]| {
        message.extend([number, value.len() as u8]);
        message.extend(value);
    };
    option(option::KIND, &[if say == Say::Discover { 1 } else { 3 }]);
    if let Say::Take { address, server } = say {
        option(option::WANTED_ADDRESS, &address.octets());
        option(option::SERVER, &server.octets());
    }
    if !host_name.is_empty() {
        option(option::HOST_NAME, &host_name.as_bytes()[..host_name.len().min(255)]);
    }
    option(option::PARAMETERS, &[option::MASK, option::ROUTER, option::NAME_SERVERS, option::DOMAIN, option::LEASE]);
    message.push(0xff);
    if let Say::Renew(address) = say {
        message[12..16].copy_from_slice(&address.octets());
    }
    message
}

/// The address at the start of an option.
fn address(value: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(value.get(..4)?).ok()?))
}

/// What a message means that came in answer to this client's `transaction`; `None` if it is for somebody else or
/// broken.
pub fn parse(message: &[u8], transaction: u32, mac: [u8; 6]) -> Option<Answer> {
    let ours = message.first() == Some(&2)
        && message.get(4..8)? == transaction.to_be_bytes()
        && message.get(28..34)? == mac
        && message.get(236..OPTIONS)? == COOKIE;
    if !ours {
        return None;
    }
    let mut kind = 0;
    let mut lease = Lease {
        address: address(&message[16..20])?,
        mask: Ipv4Addr::new(255, 255, 255, 0),
        router: None,
        name_servers: Vec::new(),
        domain: None,
        server: Ipv4Addr::UNSPECIFIED,
        seconds: 0,
    };
    let mut rest = &message[OPTIONS..];
    loop {
        rest = match rest {
            [] | [0xff, ..] => break,
            [0, rest @ ..] => rest,
            [number, length, rest @ ..] => {
                let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                match *number {
                    option::KIND => kind = *value.first()?,
                    option::MASK => lease.mask = address(value)?,
                    option::ROUTER => lease.router = address(value),
                    option::NAME_SERVERS => {
                        lease.name_servers = value.chunks_exact(4).filter_map(address).take(NAME_SERVERS_MAX).collect();
                    }
                    option::DOMAIN => lease.domain = domain(value),
                    option::SERVER => lease.server = address(value)?,
                    option::LEASE => lease.seconds = u32::from_be_bytes(value.try_into().ok()?),
                    _ => {}
                }
                rest
            }
            [_] => return None,
        };
    }
    let usable = !lease.address.is_unspecified() && !lease.address.is_multicast() && lease.seconds > 0;
    match kind {
        2 if usable => Some(Answer::Offer(lease)),
        5 if usable => Some(Answer::Granted(lease)),
        6 => Some(Answer::Refused),
        _ => None,
    }
}

/// A domain that may be written into a file.
fn domain(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
    let good = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn answer(kind: u8, options: &[u8]) -> Vec<u8> {
        let mut message = message(Say::Discover, 7, MAC, "");
        message.truncate(OPTIONS);
        message[0] = 2;
        message[16..20].copy_from_slice(&[10, 0, 0, 9]);
        message.extend([option::KIND, 1, kind]);
        message.extend(options);
        message.push(0xff);
        message
    }

    const OFFER: &[u8] = &[
        1, 4, 255, 255, 0, 0, 3, 4, 10, 0, 0, 1, 0, 6, 8, 10, 0, 0, 1, 10, 0, 0, 2, 15, 5, b'b', b'e', b'r', b't',
        b'h', 51, 4, 0, 0, 14, 16, 54, 4, 10, 0, 0, 1,
    ];

    #[test]
    fn an_offer_is_understood() {
        let lease = Lease {
            address: Ipv4Addr::new(10, 0, 0, 9),
            mask: Ipv4Addr::new(255, 255, 0, 0),
            router: Some(Ipv4Addr::new(10, 0, 0, 1)),
            name_servers: vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)],
            domain: Some("berth".to_owned()),
            server: Ipv4Addr::new(10, 0, 0, 1),
            seconds: 3600,
        };
        assert_eq!(parse(&answer(2, OFFER), 7, MAC), Some(Answer::Offer(lease.clone())));
        assert_eq!(parse(&answer(5, OFFER), 7, MAC), Some(Answer::Granted(lease)));
        assert_eq!(parse(&answer(6, &[]), 7, MAC), Some(Answer::Refused));
    }

    #[test]
    fn what_is_not_ours_is_passed_over() {
        assert_eq!(parse(&answer(2, OFFER), 8, MAC), None);
        assert_eq!(parse(&answer(2, OFFER), 7, [0; 6]), None);
        assert_eq!(parse(&answer(2, &OFFER[..31]), 7, MAC), None, "no lease time");
        assert_eq!(parse(&message(Say::Discover, 7, MAC, ""), 7, MAC), None, "a client's");
    }

    #[test]
    fn a_request_names_what_it_takes() {
        let (address, server) = (Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 1));
        let take = message(Say::Take { address, server }, 7, MAC, "web");
        let has = |part: &[u8]| take.windows(part.len()).any(|window| window == part);
        assert!(has(&[53, 1, 3]) && has(&[50, 4, 10, 0, 0, 9]) && has(&[54, 4, 10, 0, 0, 1]) && has(b"\x0c\x03web"));
        assert_eq!(message(Say::Renew(address), 7, MAC, "")[12..16], [10, 0, 0, 9]);
    }

    proptest! {
        #[test]
        fn any_message_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes, 7, MAC);
        }

        #[test]
        fn any_options_are_survived(kind in 0u8..8, options in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(Answer::Offer(lease) | Answer::Granted(lease)) = parse(&answer(kind, &options), 7, MAC) {
                prop_assert!(lease.seconds > 0 && lease.name_servers.len() <= NAME_SERVERS_MAX);
            }
        }
    }
}
