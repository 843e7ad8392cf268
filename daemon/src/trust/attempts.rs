//! Failed attempts to get trusted: after some, an address has to wait.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Failures of one address before it has to wait.
const MAX_FAILURES: u32 = 10;
/// How long failures count.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered. If there are more, all have to wait: somebody is trying from everywhere.
const MAX_ADDRESSES: usize = 4096;

/// Counts failures, and lets one password be compared at a time, for that costs time and memory.
pub struct Attempts {
    failures: Mutex<HashMap<IpAddr, (u32, Instant)>>,
    turn: Semaphore,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { failures: Mutex::default(), turn: Semaphore::new(1) }
    }
}

/// Who has one IPv6 address has its whole network.
fn origin(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

impl Attempts {
    /// Counts an attempt before it is made; `None` if the address has failed too often. A success is told to
    /// [`Attempts::succeeded`].
    pub async fn begin(&self, address: IpAddr) -> Option<SemaphorePermit<'_>> {
        self.count(address, Instant::now()).then_some(())?;
        self.turn.acquire().await.ok()
    }

    fn count(&self, address: IpAddr, now: Instant) -> bool {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, (_, since)| now.duration_since(*since) < WINDOW);
        if failures.len() >= MAX_ADDRESSES && !failures.contains_key(&origin(address)) {
            return false;
        }
        let (count, _) = failures.entry(origin(address)).or_insert((0, now));
        *count += 1;
        *count <= MAX_FAILURES
    }

    /// Forgets the failures of an address.
    pub fn succeeded(&self, address: IpAddr) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&origin(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_too_often_waits() {
        let attempts = Attempts::default();
        let (bad, good) = ("2001:db8::1".parse().unwrap(), IpAddr::from([192, 0, 2, 1]));
        let now = Instant::now();
        assert!((0..MAX_FAILURES).all(|_| attempts.count(bad, now)));
        assert!(!attempts.count(bad, now));
        assert!(!attempts.count("2001:db8::2".parse().unwrap(), now), "the same network");
        assert!(attempts.count(good, now));
        assert!(attempts.count(bad, now + WINDOW));
        attempts.succeeded(bad);
        assert!((0..MAX_FAILURES).all(|_| attempts.count(bad, now + WINDOW)));
    }

    #[test]
    fn memory_is_bounded() {
        let attempts = Attempts::default();
        let now = Instant::now();
        let from = |n: u32| IpAddr::from(n.to_be_bytes());
        assert!((0..MAX_ADDRESSES as u32).all(|n| attempts.count(from(n), now)));
        assert!(!attempts.count(from(u32::MAX), now));
        assert!(attempts.count(from(u32::MAX), now + WINDOW));
    }
}
