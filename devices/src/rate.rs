//! Rate limits: token buckets that know no clock, so that tests bring their own.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// How much of a limit may be used at once after a pause: enough that a thread which wakes a millisecond late loses
/// nothing, too little for anybody to notice.
const BURST: Duration = Duration::from_millis(50);
/// Longest time that one use can put the next one off: a guest's largest request under the smallest limit would
/// otherwise stop its disk for days.
const MAX_DEBT: Duration = Duration::from_secs(60);
const NANOS: u128 = 1_000_000_000;

/// A bucket that fills with `rate` tokens a second.
///
/// A use is allowed when the bucket is not empty and may take more than there is; the next use waits until that is
/// made up for. So uses of any size keep to the rate on average, however small it is.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: NonZeroU64,
    /// When everything taken so far is made up for.
    paid: Option<Instant>,
}

impl Bucket {
    /// A full bucket; `rate` in tokens a second.
    pub fn new(rate: NonZeroU64) -> Self {
        Self { rate, paid: None }
    }

    /// When the bucket is, or was, no longer empty; `None` if it never was.
    pub fn ready_at(&self) -> Option<Instant> {
        self.paid.and_then(|paid| paid.checked_sub(BURST))
    }

    /// Takes `cost` tokens at `now`, which must not be before [`ready_at`](Self::ready_at).
    pub fn take(&mut self, now: Instant, cost: u64) {
        let nanos = (u128::from(cost) * NANOS).div_ceil(u128::from(self.rate.get()));
        let debt = u64::try_from(nanos).map_or(MAX_DEBT, Duration::from_nanos).min(MAX_DEBT);
        self.paid = Some(self.paid.map_or(now, |paid| paid.max(now)) + debt);
    }
}

/// Most that may happen in a second; what is `None` is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// Bytes.
    pub bytes: Option<NonZeroU64>,
    /// Operations of whatever size.
    pub operations: Option<NonZeroU64>,
}

/// A [`Limit`] at work.
#[derive(Debug, Clone, Default)]
pub struct Throttle {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl Throttle {
    /// Nothing used yet.
    pub fn new(limit: Limit) -> Self {
        Self { bytes: limit.bytes.map(Bucket::new), operations: limit.operations.map(Bucket::new) }
    }

    /// Allows an operation of `bytes` bytes at `now`, or tells from when on it is allowed.
    pub fn admit(&mut self, now: Instant, bytes: u64) -> Result<(), Instant> {
        let buckets = [&self.bytes, &self.operations];
        let ready = buckets.into_iter().flatten().filter_map(Bucket::ready_at).max();
        if let Some(ready) = ready.filter(|ready| *ready > now) {
            return Err(ready);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(now, bytes);
        }
        if let Some(bucket) = &mut self.operations {
            bucket.take(now, 1);
        }
        Ok(())
    }

    /// Whether anything is limited: if not, nobody needs to look at the clock.
    pub fn limits(&self) -> bool {
        self.bytes.is_some() || self.operations.is_some()
    }
}

/// A rate of bytes for a stream whose pieces show their length only once they have passed.
#[derive(Debug, Clone, Default)]
pub struct Pace(Option<Bucket>);

impl Pace {
    /// At most `rate` bytes a second, or no limit.
    pub fn new(rate: Option<NonZeroU64>) -> Self {
        Self(rate.map(Bucket::new))
    }

    /// When the next piece may pass, if that is not now; asks for the time only if there is a limit.
    pub fn blocked(&self, now: impl FnOnce() -> Instant) -> Option<Instant> {
        let ready = self.0.as_ref()?.ready_at()?;
        (ready > now()).then_some(ready)
    }

    /// A piece of `bytes` bytes passed.
    pub fn passed(&mut self, now: impl FnOnce() -> Instant, bytes: u64) {
        if let Some(bucket) = &mut self.0 {
            bucket.take(now(), bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(bytes: u64, operations: u64) -> Limit {
        Limit { bytes: NonZeroU64::new(bytes), operations: NonZeroU64::new(operations) }
    }

    /// Uses `throttle` as fast as it allows; returns the seconds that passed on a clock of its own.
    fn run(throttle: &mut Throttle, start: Instant, sizes: &[u64]) -> f64 {
        let mut now = start;
        for size in sizes {
            if let Err(ready) = throttle.admit(now, *size) {
                assert!(ready > now);
                now = ready;
                throttle.admit(now, *size).unwrap();
            }
        }
        now.duration_since(start).as_secs_f64()
    }

    #[test]
    fn no_limit_never_waits() {
        let mut throttle = Throttle::new(Limit::default());
        assert!(!throttle.limits());
        assert_eq!(run(&mut throttle, Instant::now(), &[u64::MAX; 100]), 0.0);
    }

    #[test]
    fn operations_and_bytes_are_counted_apart() {
        let mut throttle = Throttle::new(limit(1000, 10));
        // 30 operations at 10 a second, less the burst and the last one's own time.
        let time = run(&mut throttle, Instant::now(), &[1; 30]);
        assert!((2.8..=2.95).contains(&time), "{time}");
        let mut throttle = Throttle::new(limit(1000, 1_000_000));
        let time = run(&mut throttle, Instant::now(), &[500; 6]);
        assert!((2.4..=2.5).contains(&time), "{time}");
    }

    #[test]
    fn a_pause_allows_no_more_than_the_burst() {
        let start = Instant::now();
        let mut throttle = Throttle::new(limit(0, 1000));
        run(&mut throttle, start, &[0; 1000]);
        let later = start + Duration::from_secs(3600);
        let admitted = (0..10_000).take_while(|_| throttle.admit(later, 0).is_ok()).count();
        assert_eq!(admitted, 51);
    }

    #[test]
    fn a_pace_blocks_after_what_passed() {
        let start = Instant::now();
        let mut pace = Pace::new(NonZeroU64::new(1000));
        assert_eq!(pace.blocked(|| start), None);
        pace.passed(|| start, 1050);
        assert_eq!(pace.blocked(|| start), Some(start + Duration::from_secs(1)));
        assert_eq!(pace.blocked(|| start + Duration::from_secs(1)), None);
        assert_eq!(Pace::default().blocked(|| panic!("no limit needs no clock")), None);
    }

    #[test]
    fn one_giant_use_does_not_stop_the_device_for_ever() {
        let start = Instant::now();
        let mut throttle = Throttle::new(limit(1, 0));
        throttle.admit(start, u64::MAX).unwrap();
        assert!(throttle.admit(start, 0).unwrap_err() <= start + MAX_DEBT);
    }

    proptest! {
        #[test]
        fn the_rate_is_kept_on_average(
            rate in 1000u64..1 << 40,
            sizes in proptest::collection::vec(1u64..1 << 20, 1..200),
            pauses in proptest::collection::vec(0u64..50_000_000, 200),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut throttle = Throttle::new(limit(rate, 0));
            let mut before_last = 0u128;
            let mut capped = false;
            for (size, pause) in sizes.iter().zip(&pauses) {
                now += Duration::from_nanos(*pause);
                if let Err(ready) = throttle.admit(now, *size) {
                    prop_assert!(ready > now);
                    now = ready;
                    prop_assert!(throttle.admit(now, *size).is_ok(), "allowed when it said so");
                }
                // What was used before the last use fits the time and the burst.
                let time = now.duration_since(start) + BURST;
                let allowed = time.as_nanos() * u128::from(rate) / NANOS + 1;
                prop_assert!(capped || before_last <= allowed, "{before_last} of {allowed}");
                before_last += u128::from(*size);
                capped |= u128::from(*size) > MAX_DEBT.as_nanos() * u128::from(rate) / NANOS;
            }
        }
    }
}
