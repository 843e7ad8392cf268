//! How long a snapshot is kept: `snapshots.expiry`.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

/// Letters of the units, as LXD has them: minutes and months differ by their size only.
const UNITS: &str = "M, H, d, w, m and y";
/// No time is kept longer; dates end somewhere.
const MAX: i64 = 1000;

/// The time that `text` such as `2w` or `1d 12H` says; `None` if it is empty.
pub(crate) fn parse(text: &str) -> Result<Option<Span>, String> {
    let complaint = || format!("\"{text}\" is not a time to keep snapshots; use numbers with {UNITS}, as in 1d 12H");
    let mut span = Span::new();
    let mut given = false;
    for word in text.split_ascii_whitespace() {
        given = true;
        let unit = word.chars().next_back().ok_or_else(complaint)?;
        let number = word.strip_suffix(unit).ok_or_else(complaint)?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let number: i64 = number.parse().ok().filter(|_| digits).ok_or_else(complaint)?;
        let sum = match unit {
            'M' => span.try_minutes(number),
            'H' => span.try_hours(number),
            'd' => span.try_days(number),
            'w' => span.try_weeks(number),
            'm' => span.try_months(number),
            'y' if number <= MAX => span.try_years(number),
            _ => return Err(complaint()),
        };
        span = sum.map_err(|_| complaint())?;
    }
    Ok(given.then_some(span))
}

/// The end of that time, beginning at `from`; `None` for never.
pub(crate) fn end(text: &str, from: Timestamp) -> Result<Option<Timestamp>, String> {
    let Some(span) = parse(text)? else { return Ok(None) };
    let end = from.to_zoned_datetime(TimeZone::UTC).checked_add(span);
    end.map(|end| Some(end.timestamp())).map_err(|_| format!("\"{text}\" is longer than dates go"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends() {
        let from: Timestamp = "2026-01-31T00:00:00Z".parse().unwrap();
        let after = |text: &str| end(text, from).unwrap().map(|end| end.to_string());
        assert_eq!(after("1d 12H"), Some("2026-02-01T12:00:00Z".to_owned()));
        assert_eq!(after("1m"), Some("2026-02-28T00:00:00Z".to_owned()));
        assert_eq!(after("90M"), Some("2026-01-31T01:30:00Z".to_owned()));
        assert_eq!(after("2w 1y"), Some("2027-02-14T00:00:00Z".to_owned()));
        assert_eq!(after(""), None);
        for wrong in ["1", "d", "1x", "-1d", "1 d", "99999999999999999999d", "9999999y", "1dd"] {
            assert!(end(wrong, from).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,20}|([0-9]{1,19}[MHdwmy] ?){0,4}") {
            let _ = end(&text, Timestamp::now());
        }
    }
}
