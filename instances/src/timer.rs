//! Waiting for a date.

use std::io;
use std::os::fd::OwnedFd;

use jiff::Timestamp;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A date so far ahead that it does not come.
const NEVER: i64 = i64::MAX / 1_000_000_000;

/// A timer that knows the date, not only the time that passes: it notices when somebody sets the clock.
#[derive(Debug)]
pub(crate) struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// One that is not set. Must be called on a runtime.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self(crate::sys::watch(fd)?))
    }

    /// Returns at that date, for `None` never, and whenever the clock is set. Cancel safe.
    pub async fn wait_until(&self, date: Option<Timestamp>) -> io::Result<()> {
        // A date that is past is due at once, but all zeros would switch the timer off.
        let seconds = date.map_or(NEVER, |date| date.as_second().max(1));
        let nanos = date.map_or(0, |date| date.subsec_nanosecond().max(0));
        let value = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(self.0.get_ref(), flags, &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut count = [0; 8];
            match rustix::io::read(self.0.get_ref(), &mut count) {
                Err(Errno::AGAIN) => ready.clear_ready(),
                // Somebody set the clock.
                Ok(_) | Err(Errno::CANCELED) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;

    #[tokio::test]
    async fn dates_come_and_go() {
        let timer = Timer::new().unwrap();
        timer.wait_until(Some(Timestamp::UNIX_EPOCH)).await.unwrap();
        let soon = Timestamp::now() + 30.milliseconds();
        timer.wait_until(Some(soon)).await.unwrap();
        assert!(Timestamp::now() >= soon);
        let never = timer.wait_until(None);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), never).await.is_err());
    }
}
