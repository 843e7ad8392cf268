//! Requests that wait for a limit.

use std::collections::VecDeque;
use std::time::Instant;

use super::config::{BlockLimits, QUEUE_SIZE};
use super::request::{Cost, Direction, Request};
use crate::rate::Throttle;
use crate::virtio::Chain;

/// Requests that may wait: as many as a driver can have under way.
const MAX_WAITING: usize = QUEUE_SIZE as usize;

/// A request that waits.
struct Waiting {
    request: Request,
    chain: Chain,
    bytes: u64,
}

/// One direction.
#[derive(Default)]
struct Gate {
    throttle: Throttle,
    waiting: VecDeque<Waiting>,
    /// When the first of them may go on.
    ready: Option<Instant>,
}

/// Both directions. Requests of one do not wait for those of the other.
#[derive(Default)]
pub struct Gates {
    read: Gate,
    write: Gate,
}

impl Gates {
    /// Limited so.
    pub fn new(limits: BlockLimits) -> Self {
        let gate = |limit| Gate { throttle: Throttle::new(limit), ..Gate::default() };
        Self { read: gate(limits.read), write: gate(limits.write) }
    }

    /// Other limits, from `now` on.
    pub fn limit(&mut self, limits: BlockLimits, now: Instant) {
        for (gate, limit) in [(&mut self.read, limits.read), (&mut self.write, limits.write)] {
            gate.throttle = Throttle::new(limit);
            gate.ready = Some(now);
        }
    }

    fn gate(&mut self, direction: Direction) -> &mut Gate {
        match direction {
            Direction::Read => &mut self.read,
            Direction::Write => &mut self.write,
        }
    }

    /// Whether no more requests can be kept.
    pub fn full(&self) -> bool {
        self.read.waiting.len() + self.write.waiting.len() >= MAX_WAITING
    }

    /// Whether a request of this cost may be carried out at once; the clock is read only if there is a limit.
    pub fn admit(&mut self, cost: Cost, now: impl FnOnce() -> Instant) -> bool {
        let gate = self.gate(cost.direction);
        if !gate.waiting.is_empty() {
            return false;
        }
        if !gate.throttle.limits() {
            return true;
        }
        let admitted = gate.throttle.admit(now(), cost.bytes);
        gate.ready = admitted.err();
        gate.ready.is_none()
    }

    /// Keeps a request that was not admitted.
    pub fn keep(&mut self, request: Request, chain: Chain, cost: Cost) {
        self.gate(cost.direction).waiting.push_back(Waiting { request, chain, bytes: cost.bytes });
    }

    /// Takes a request that may go on at `now`.
    pub fn next(&mut self, now: Instant) -> Option<(Request, Chain)> {
        for gate in [&mut self.read, &mut self.write] {
            let Some(first) = gate.waiting.front() else { continue };
            match gate.throttle.admit(now, first.bytes) {
                Ok(()) => return gate.waiting.pop_front().map(|first| (first.request, first.chain)),
                Err(ready) => gate.ready = Some(ready),
            }
        }
        None
    }

    /// Takes a request, whether it may go on or not.
    pub fn drain(&mut self) -> Option<(Request, Chain)> {
        let first = self.read.waiting.pop_front().or_else(|| self.write.waiting.pop_front());
        first.map(|first| (first.request, first.chain))
    }

    /// When [`next`](Self::next) is worth a call.
    pub fn deadline(&self) -> Option<Instant> {
        let waiting = [&self.read, &self.write].into_iter().filter(|gate| !gate.waiting.is_empty());
        waiting.filter_map(|gate| gate.ready).min()
    }

    /// Forgets all requests.
    pub fn clear(&mut self) {
        self.read.waiting.clear();
        self.write.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use super::*;
    use crate::rate::Limit;

    const READ: Cost = Cost { direction: Direction::Read, bytes: 1000 };
    const WRITE: Cost = Cost { direction: Direction::Write, bytes: 1000 };

    fn limits(read: u64, write: u64) -> BlockLimits {
        let limit = |rate| Limit { bytes: NonZeroU64::new(rate), operations: None };
        BlockLimits { read: limit(read), write: limit(write) }
    }

    fn keep(gates: &mut Gates, head: u16, cost: Cost) {
        gates.keep(Request::default(), Chain { head, ..Chain::default() }, cost);
    }

    fn next(gates: &mut Gates, now: Instant) -> Option<u16> {
        gates.next(now).map(|(_, chain)| chain.head)
    }

    #[test]
    fn each_direction_keeps_its_order_and_its_own_time() {
        let start = Instant::now();
        let mut gates = Gates::new(limits(1000, 2000));
        assert!(gates.admit(READ, || start) && gates.admit(WRITE, || start));
        for (head, cost) in [(1, READ), (2, READ), (3, WRITE)] {
            assert!(!gates.admit(cost, || start));
            keep(&mut gates, head, cost);
        }
        let after = |millis| start + Duration::from_millis(millis);
        // A little less than a second and half a second: the burst.
        assert!(gates.deadline().is_some_and(|at| at > after(400) && at <= after(500)));
        assert_eq!(next(&mut gates, after(400)), None);
        assert_eq!(next(&mut gates, after(500)), Some(3));
        assert_eq!(next(&mut gates, after(500)), None);
        assert_eq!(next(&mut gates, after(1000)), Some(1));
        assert_eq!(next(&mut gates, after(1000)), None);
        assert_eq!(next(&mut gates, after(2000)), Some(2));
        assert_eq!(gates.deadline(), None);
    }

    #[test]
    fn a_lifted_limit_lets_all_go_in_order() {
        let start = Instant::now();
        let mut gates = Gates::new(limits(1, 0));
        assert!(gates.admit(WRITE, || panic!("no limit needs no clock")));
        assert!(gates.admit(READ, || start) && !gates.admit(READ, || start));
        keep(&mut gates, 1, READ);
        keep(&mut gates, 2, READ);
        gates.limit(limits(0, 0), start);
        assert!(!gates.admit(READ, || start), "it would overtake");
        assert_eq!(gates.deadline(), Some(start));
        assert_eq!((next(&mut gates, start), next(&mut gates, start)), (Some(1), Some(2)));
        assert!(gates.admit(READ, || start));
    }

    #[test]
    fn there_is_room_for_as_many_as_a_queue_has() {
        let mut gates = Gates::new(limits(1, 1));
        for head in 0..256 {
            assert!(!gates.full());
            keep(&mut gates, head, if head % 2 == 0 { READ } else { WRITE });
        }
        assert!(gates.full());
        assert_eq!(std::iter::from_fn(|| gates.drain()).count(), 256);
        assert!(!gates.full());
    }
}
