//! crontab(5)'s five fields.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// Days looked at for the next moment: 29 February may be eight years away, and its weekday several times that.
const DAYS: usize = 366 * 41;

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A set of numbers below 64.
type Set = u64;

/// Moments that repeat, in whole minutes of local time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cron {
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
    /// Whether a day suits if either field says so, which is when both are restricted.
    either: bool,
}

impl Cron {
    /// Reads `MINUTE HOUR DAY MONTH WEEKDAY`, or one of the words that stand for such fields.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(format!("\"{text}\" does not have the five fields MINUTE HOUR DAY MONTH WEEKDAY"));
        };
        let mut weekdays = field(weekday, 0, 7, WEEKDAYS)?;
        // Sunday has two numbers.
        if weekdays & 1 << 7 != 0 {
            weekdays = weekdays & !(1 << 7) | 1;
        }
        let free = |field: &str| field.starts_with(['*', '?']);
        let cron = Self {
            minutes: field(minute, 0, 59, &[])?,
            hours: field(hour, 0, 23, &[])?,
            days: field(day, 1, 31, &[])?,
            months: field(month, 1, 12, MONTHS)?,
            weekdays,
            either: !free(day) && !free(weekday),
        };
        // A schedule that never comes is a mistake.
        if cron.next(Timestamp::UNIX_EPOCH, &TimeZone::UTC).is_none() {
            return Err(format!("\"{text}\" never comes: no such day is in any year"));
        }
        Ok(cron)
    }

    /// The first moment after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let today = after.to_zoned_datetime(zone.clone()).date();
        let days = today.series(1.day()).take(DAYS).filter(|date| self.suits(*date));
        days.flat_map(|date| self.times(date))
            // A moment that a change of the clocks leaves out comes when the clocks have changed.
            .filter_map(|moment| zone.to_timestamp(moment).ok())
            .find(|moment| *moment > after)
    }

    fn suits(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        has(self.months, date.month()) && if self.either { day || weekday } else { day && weekday }
    }

    fn times(&self, date: Date) -> impl Iterator<Item = DateTime> + '_ {
        let hours = (0..24).filter(|hour| has(self.hours, *hour));
        let times = hours.flat_map(|hour| (0..60).map(move |minute| (hour, minute)));
        let wanted = times.filter(|(_, minute)| has(self.minutes, *minute));
        wanted.map(move |(hour, minute)| date.to_datetime(Time::constant(hour, minute, 0, 0)))
    }
}

fn has(set: Set, number: i8) -> bool {
    u32::try_from(number).is_ok_and(|number| set & 1 << number != 0)
}

/// One field: a list of `*`, `N`, `N-M`, each perhaps with `/STEP`.
fn field(text: &str, first: u32, last: u32, names: &[&str]) -> Result<Set, String> {
    let complaint = |part: &str| format!("\"{part}\" is not one or several of {first} to {last}");
    let number = |part: &str| -> Result<u32, String> {
        if let Some(at) = names.iter().position(|name| name.eq_ignore_ascii_case(part)) {
            return Ok(at as u32 + first);
        }
        let number = part.parse().ok().filter(|number| (first..=last).contains(number));
        number.filter(|_| part.bytes().all(|byte| byte.is_ascii_digit())).ok_or_else(|| complaint(part))
    };
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                let step = step.parse::<u32>().ok().filter(|step| (1..=last).contains(step));
                (range, Some(step.ok_or_else(|| complaint(part))?))
            }
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" || range == "?" => (first, last),
            Some((from, to)) => (number(from)?, number(to)?),
            // With a step, one number is where it begins.
            None if step.is_some() => (number(range)?, last),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return Err(complaint(part));
        }
        set |= (from..=to).step_by(step.unwrap_or(1) as usize).fold(0, |set, number| set | 1 << number);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn next(cron: &str, after: &str) -> String {
        let after: Timestamp = after.parse().unwrap();
        Cron::parse(cron).unwrap().next(after, &TimeZone::UTC).unwrap().to_string()
    }

    #[test]
    fn moments() {
        assert_eq!(next("*/15 * * * *", "2026-01-01T10:14:59Z"), "2026-01-01T10:15:00Z");
        assert_eq!(next("*/15 * * * *", "2026-01-01T10:15:00Z"), "2026-01-01T10:30:00Z");
        assert_eq!(next("0 0 * * *", "2026-12-31T23:59:00Z"), "2027-01-01T00:00:00Z");
        assert_eq!(next("30 6 1,15 * *", "2026-01-02T00:00:00Z"), "2026-01-15T06:30:00Z");
        assert_eq!(next("0 12 * * Mon-Fri", "2026-01-03T00:00:00Z"), "2026-01-05T12:00:00Z");
        assert_eq!(next("0 12 * * 7", "2026-01-03T00:00:00Z"), "2026-01-04T12:00:00Z");
        assert_eq!(next("0 0 29 2 *", "2026-01-01T00:00:00Z"), "2028-02-29T00:00:00Z");
        assert_eq!(next("5/20 1 * jan *", "2026-01-01T00:00:00Z"), "2026-01-01T01:05:00Z");
        // The thirteenth, or a Friday.
        assert_eq!(next("0 0 13 * 5", "2026-01-03T00:00:00Z"), "2026-01-09T00:00:00Z");
        assert_eq!(next("0 0 13 * 5", "2026-01-09T00:00:00Z"), "2026-01-13T00:00:00Z");
    }

    #[test]
    fn clocks_that_change() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let after: Timestamp = "2026-03-28T12:00:00Z".parse().unwrap();
        // 02:30 is left out on that day.
        let moment = Cron::parse("30 2 * * *").unwrap().next(after, &zone).unwrap();
        assert_eq!(moment.to_string(), "2026-03-29T01:30:00Z");
    }

    #[test]
    fn mistakes() {
        for wrong in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "0 0 30 2 *",
            "a * * * *",
            "+1 * * * *",
        ] {
            assert!(Cron::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[0-9*/,a-z -]{0,24}") {
            let _ = Cron::parse(&text);
        }

        #[test]
        fn the_next_moment_is_later_and_in_the_set(minute in 0_i8..60, hour in 0_i8..24, seconds in 0_i64..2_000_000_000) {
            let after = Timestamp::from_second(seconds).unwrap();
            let moment = Cron::parse(&format!("{minute} {hour} * * *")).unwrap().next(after, &TimeZone::UTC).unwrap();
            prop_assert!(moment > after && moment.as_second() - after.as_second() <= 24 * 3600);
            let time = moment.to_zoned_datetime(TimeZone::UTC).time();
            prop_assert_eq!((time.hour(), time.minute(), time.second()), (hour, minute, 0));
        }
    }
}
