//! Sizes and times for people.

use berth_api::Time;
use jiff::tz::TimeZone;

/// Bytes in binary units, as LXD writes them: `12.34MiB`.
pub fn size(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    #[allow(clippy::cast_precision_loss)] // two digits after the point are shown
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

/// A time in the user's zone; empty for never.
pub fn date(time: Time) -> String {
    date_in(time, &TimeZone::system())
}

fn date_in(time: Time, zone: &TimeZone) -> String {
    if time.is_never() {
        return String::new();
    }
    time.0.to_zoned_datetime(zone.clone()).strftime("%Y/%m/%d %H:%M %Z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00KiB"),
            (12_939_427, "12.34MiB"),
            (i64::MAX, "8.00EiB"),
            (-1, "-1B"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn dates() {
        let time: Time = "2024-05-01T08:00:59Z".parse().unwrap();
        assert_eq!(date_in(time, &TimeZone::UTC), "2024/05/01 08:00 UTC");
        assert_eq!(date(Time::ZERO), "");
        assert_eq!(date(Time::EPOCH), "");
    }
}
