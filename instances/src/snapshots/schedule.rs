//! `snapshots.schedule`.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::cron::Cron;

/// Words for moments, with the fields they stand for.
const ALIASES: &[(&str, &str)] = &[
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@annually", "0 0 1 1 *"),
    ("@yearly", "0 0 1 1 *"),
];

/// When snapshots are made by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Schedule {
    moments: Vec<Cron>,
    /// At each start of the instance.
    pub startup: bool,
}

impl Schedule {
    /// Reads a cron expression, or words with commas between them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let mut schedule = Self::default();
        if text.is_empty() || text == "@never" {
            return Ok(schedule);
        }
        if !text.starts_with('@') {
            schedule.moments.push(Cron::parse(text)?);
            return Ok(schedule);
        }
        for word in text.split(',').map(str::trim) {
            if word == "@startup" {
                schedule.startup = true;
                continue;
            }
            let fields =
                ALIASES.iter().find(|(alias, _)| *alias == word).map(|(_, fields)| *fields).ok_or_else(|| {
                    let known: Vec<_> = ALIASES.iter().map(|(alias, _)| *alias).collect();
                    format!("\"{word}\" is not one of {}, @startup, @never", known.join(", "))
                })?;
            schedule.moments.push(Cron::parse(fields)?);
        }
        Ok(schedule)
    }

    /// The first moment after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        self.moments.iter().filter_map(|cron| cron.next(after, zone)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_fields() {
        let after: Timestamp = "2026-01-01T10:30:00Z".parse().unwrap();
        let next = |text: &str| Schedule::parse(text).unwrap().next(after, &TimeZone::UTC).map(|t| t.to_string());
        assert_eq!(next("@daily, @hourly").as_deref(), Some("2026-01-01T11:00:00Z"));
        assert_eq!(next("@daily").as_deref(), Some("2026-01-02T00:00:00Z"));
        assert_eq!(next("0 6 * * *").as_deref(), Some("2026-01-02T06:00:00Z"));
        assert_eq!((next(""), next("@never"), next("@startup")), (None, None, None));
        assert!(Schedule::parse("@startup").unwrap().startup);
        for wrong in ["@often", "@daily @hourly", "@daily,", "often"] {
            assert!(Schedule::parse(wrong).is_err(), "{wrong}");
        }
    }
}
