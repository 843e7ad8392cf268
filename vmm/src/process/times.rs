//! When the machine came how far.

use berth_guest::protocol::USER_SPACE_MARK;
use berth_supervisor::protocol::BootTimes;
use rustix::time::{ClockId, clock_gettime};

/// Takes the times of one machine; each is that of the first occurrence.
#[derive(Debug)]
pub struct Times {
    times: BootTimes,
    /// End of what was printed so far, in which the mark may have begun.
    tail: Vec<u8>,
}

impl Times {
    /// The process begins. Call before system calls are filtered: what reads the clock first looks for it in the process's
    /// own description.
    pub fn begin() -> Self {
        Self { times: BootTimes { began: now(), user_space: None, agent: None }, tail: Vec::new() }
    }

    /// The guest printed something.
    pub fn printed(&mut self, bytes: &[u8]) {
        if self.times.user_space.is_some() {
            return;
        }
        let mark = USER_SPACE_MARK.as_bytes();
        self.tail.extend_from_slice(bytes);
        if self.tail.windows(mark.len()).any(|window| window == mark) {
            self.times.user_space = Some(now());
            self.tail = Vec::new();
        } else {
            self.tail.drain(..self.tail.len().saturating_sub(mark.len() - 1));
        }
    }

    /// The agent greeted.
    pub fn agent_ready(&mut self) {
        self.times.agent.get_or_insert_with(now);
    }

    /// What is known so far.
    pub fn get(&self) -> BootTimes {
        self.times
    }
}

/// The host's monotonic clock, which every process on it reads alike.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_mark_is_seen_however_it_is_cut(before in ".{0,40}", cut in 0..=USER_SPACE_MARK.len()) {
            let mut times = Times::begin();
            let (head, tail) = USER_SPACE_MARK.split_at(cut);
            times.printed(before.as_bytes());
            times.printed(head.as_bytes());
            prop_assert_eq!(times.get().user_space.is_some(), cut == USER_SPACE_MARK.len());
            times.printed(tail.as_bytes());
            prop_assert!(times.get().user_space.unwrap() >= times.get().began);
        }
    }

    #[test]
    fn the_first_occurrence_counts_and_other_output_is_not_kept() {
        let mut times = Times::begin();
        times.printed(&[b'x'; 100_000]);
        assert!(times.tail.len() < USER_SPACE_MARK.len());
        times.printed(USER_SPACE_MARK.as_bytes());
        times.agent_ready();
        let first = times.get();
        times.printed(USER_SPACE_MARK.as_bytes());
        times.agent_ready();
        assert_eq!(times.get(), first);
    }
}
