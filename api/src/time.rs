//! Points in time as the API writes them.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A point in time, RFC 3339 in JSON. Its default is Go's zero time, `0001-01-01T00:00:00Z`, which LXD writes for
/// "never".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub Timestamp);

/// Seconds from 0001-01-01T00:00:00Z to the Unix epoch.
const YEAR_ONE: i64 = -62_135_596_800;

impl Time {
    /// Go's zero time: "never", "unknown".
    pub const ZERO: Time = Time(Timestamp::constant(YEAR_ONE, 0));
    /// The Unix epoch, which LXD writes for an image that never expires.
    pub const EPOCH: Time = Time(Timestamp::UNIX_EPOCH);

    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(Timestamp::now())
    }

    /// From seconds since the Unix epoch; what no timestamp can hold becomes [`Time::ZERO`].
    #[must_use]
    pub fn from_unix(seconds: i64) -> Self {
        Timestamp::from_second(seconds).map_or(Self::ZERO, Self)
    }

    /// Whether this is "never": Go's zero time or the Unix epoch.
    #[must_use]
    pub fn is_never(&self) -> bool {
        *self == Self::ZERO || *self == Self::EPOCH
    }
}

impl Default for Time {
    fn default() -> Self {
        Self::ZERO
    }
}

impl From<Timestamp> for Time {
    fn from(value: Timestamp) -> Self {
        Self(value)
    }
}

impl From<Time> for Timestamp {
    fn from(value: Time) -> Self {
        value.0
    }
}

impl FromStr for Time {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_zero_time_round_trips() {
        let json = "\"0001-01-01T00:00:00Z\"";
        let time: Time = serde_json::from_str(json).unwrap();
        assert_eq!(time, Time::ZERO);
        assert_eq!(time, Time::default());
        assert!(time.is_never());
        assert_eq!(serde_json::to_string(&time).unwrap(), json);
    }

    #[test]
    fn nanoseconds_and_offsets_are_read() {
        let time: Time = serde_json::from_str("\"2024-03-01T12:00:00.123456789+02:00\"").unwrap();
        assert_eq!(time.to_string(), "2024-03-01T10:00:00.123456789Z");
        assert!(!time.is_never());
    }

    #[test]
    fn seconds_out_of_range_are_never() {
        assert_eq!(Time::from_unix(i64::MAX), Time::ZERO);
        assert_eq!(Time::from_unix(0), Time::EPOCH);
    }
}
