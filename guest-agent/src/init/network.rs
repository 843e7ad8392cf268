//! The network of a root without an init: an address by DHCP on each Ethernet interface. IPv6 is the kernel's affair.

use std::{
    fs, io,
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::{
    dhcp::{self, Answer, Lease, Say},
    sys,
};
use crate::{links, log::Log};

/// How long to wait for an answer at first; doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Least time between two renewals, whatever the server says.
const RENEWAL_MIN: Duration = Duration::from_secs(30);
const STACK: usize = 256 * 1024;

/// Takes all interfaces up; addresses come in the background.
pub fn bring_up(log: &Log) {
    if let Err(e) = links::up("lo") {
        log.line(format_args!("cannot take lo up: {e}"));
    }
    for name in links::ethernet() {
        let interface = name.clone();
        let outcome = links::up(&name).and_then(|()| {
            let log = log.try_clone()?;
            let serve = move || {
                let Err(e) = keep(&interface, &log);
                log.line(format_args!("{interface} gets no address: {e}"));
            };
            thread::Builder::new().stack_size(STACK).spawn(serve)
        });
        if let Err(e) = outcome {
            log.line(format_args!("cannot take {name} up: {e}"));
        }
    }
}

/// Has an address for as long as the guest lives.
fn keep(name: &str, log: &Log) -> io::Result<std::convert::Infallible> {
    let client = Client { socket: sys::socket_on(name, dhcp::CLIENT_PORT)?, name };
    let mut lease: Option<Lease> = None;
    loop {
        let granted = match &lease {
            None => client.obtain()?,
            // A lease that nobody renews any more is as good as none.
            Some(old) => client.renew(old)?,
        };
        if let Some(granted) = &granted
            && lease.as_ref() != Some(granted)
            && let Err(e) = apply(name, granted)
        {
            log.line(format_args!("cannot configure {name}: {e}"));
        }
        lease = granted;
        if let Some(lease) = &lease {
            // T1 of RFC 2131.
            thread::sleep(Duration::from_secs(u64::from(lease.seconds / 2)).max(RENEWAL_MIN));
        }
    }
}

struct Client<'a> {
    socket: UdpSocket,
    name: &'a str,
}

impl Client<'_> {
    /// Asks until a server grants an address.
    fn obtain(&self) -> io::Result<Option<Lease>> {
        let mut wait = FIRST_WAIT;
        loop {
            if let Some(Answer::Offer(offer)) = self.ask(Say::Discover, wait)? {
                let take = Say::Take { address: offer.address, server: offer.server };
                if let Some(Answer::Granted(lease)) = self.ask(take, wait)? {
                    return Ok(Some(lease));
                }
            }
            wait = (wait * 2).min(MAX_WAIT);
        }
    }

    /// Asks until the lease is renewed, refused, or over.
    fn renew(&self, lease: &Lease) -> io::Result<Option<Lease>> {
        let over = Instant::now() + Duration::from_secs(u64::from(lease.seconds / 2));
        let mut wait = FIRST_WAIT;
        while Instant::now() < over {
            match self.ask(Say::Renew(lease.address), wait)? {
                Some(Answer::Granted(lease)) => return Ok(Some(lease)),
                Some(Answer::Refused) => return Ok(None),
                _ => wait = (wait * 2).min(MAX_WAIT),
            }
        }
        Ok(None)
    }

    /// Says something and waits for the answer.
    fn ask(&self, say: Say, wait: Duration) -> io::Result<Option<Answer>> {
        let transaction = rand();
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // Asked each time: a guest that goes on from another's state has got another one.
        let mac = links::hardware_address(self.name).ok_or(io::ErrorKind::NotFound)?;
        let message = dhcp::message(say, transaction, mac, &host_name);
        // The link may be down for the moment: the time until the next attempt passes all the same.
        let _ = self.socket.send_to(&message, (Ipv4Addr::BROADCAST, dhcp::SERVER_PORT));
        let deadline = Instant::now() + wait;
        let mut buffer = [0; dhcp::MESSAGE_MAX];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    if let Some(answer) = dhcp::parse(&buffer[..length], transaction, mac) {
                        return Ok(Some(answer));
                    }
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                // What the network said of an earlier message.
                Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

fn rand() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness the answer is told from others by the hardware address.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    u32::from_ne_bytes(bytes)
}

fn apply(name: &str, lease: &Lease) -> io::Result<()> {
    sys::set_address(name, lease.address, lease.mask)?;
    if let Some(router) = lease.router {
        sys::set_default_route(router)?;
    }
    let mut text: String = lease.domain.iter().map(|domain| format!("search {domain}\n")).collect();
    text.extend(lease.name_servers.iter().map(|server| format!("nameserver {server}\n")));
    if text.is_empty() { Ok(()) } else { fs::write("/etc/resolv.conf", text) }
}
