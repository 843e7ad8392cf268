//! Names of snapshots, and `snapshots.pattern`.

use jiff::ZonedDateTime;

/// Longest name; with it a key of the store and the name of a file stay within their bounds.
const MAX: usize = 255;

/// Pattern of snapshots that are given no name.
pub(crate) const DEFAULT_PATTERN: &str = "snap%d";

/// Highest number that is counted up from.
const MAX_NUMBER: u64 = 1 << 48;

/// Checks the name of a snapshot.
pub(crate) fn check(name: &str) -> Result<(), String> {
    check_of("snapshot", name)
}

/// Checks the name of something that an instance has several of.
pub(crate) fn check_of(what: &str, name: &str) -> Result<(), String> {
    let reason = if name.is_empty() || name.len() > MAX {
        "a name has 1 to 255 bytes"
    } else if name.contains('/') {
        "Cannot contain slashes"
    } else if name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        "a name has no blanks and control characters"
    } else if name == "." || name == ".." {
        "it means something else as a path"
    } else {
        return Ok(());
    };
    Err(format!("Invalid instance {what} name \"{}\": {reason}", name.escape_debug()))
}

/// Checks a pattern.
pub(crate) fn check_pattern(pattern: &str) -> Result<(), String> {
    invent(pattern, &ZonedDateTime::now(), |_| false, []).map(drop)
}

/// The name that a pattern gives at a moment: `{{ creation_date }}` stands for it, `%d` for the number after the highest
/// one in use. A name without a number that is taken gets one.
pub(crate) fn invent<'a>(
    pattern: &str,
    now: &ZonedDateTime,
    taken: impl Fn(&str) -> bool,
    others: impl IntoIterator<Item = &'a str> + Clone,
) -> Result<String, String> {
    let pattern = if pattern.is_empty() { DEFAULT_PATTERN } else { pattern };
    let mut text = dates(pattern, now)?.replace(' ', "_");
    if !text.contains("%d") && taken(&text) {
        text.push_str("-%d");
    }
    if let Some((before, after)) = text.split_once("%d") {
        let number = |name: &str| name.strip_prefix(before)?.strip_suffix(after)?.parse::<u64>().ok();
        let highest = others.into_iter().filter_map(number).filter(|number| *number < MAX_NUMBER).max();
        text = format!("{before}{}{after}", highest.map_or(0, |highest| highest + 1));
    }
    check(&text)?;
    Ok(text)
}

/// Puts dates in the place of `{{ ... }}`.
fn dates(pattern: &str, now: &ZonedDateTime) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = pattern;
    while let Some((before, inside)) = rest.split_once("{{") {
        let complaint = || {
            format!(
                "pattern \"{pattern}\": only {{{{ creation_date }}}} and {{{{ creation_date|date:'2006-01-02' }}}} are known"
            )
        };
        let (inside, after) = inside.split_once("}}").ok_or_else(complaint)?;
        let layout = match inside.trim().strip_prefix("creation_date").map(str::trim) {
            Some("") => "2006-01-02 15:04:05 -0700 MST",
            Some(filter) => {
                let filter = filter.strip_prefix('|').map(str::trim).ok_or_else(complaint)?;
                let quoted = filter.strip_prefix("date:").map(str::trim).ok_or_else(complaint)?;
                let inner = |quote: char| quoted.strip_prefix(quote)?.strip_suffix(quote);
                inner('\'').or_else(|| inner('"')).ok_or_else(complaint)?
            }
            None => return Err(complaint()),
        };
        text.push_str(before);
        text.push_str(&format(layout, now));
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// Pieces of Go's date layouts, the longer before the shorter, and what they are for strftime(3).
const PIECES: &[(&str, &str)] = &[
    ("January", "%B"),
    ("Jan", "%b"),
    ("Monday", "%A"),
    ("Mon", "%a"),
    ("MST", "%Z"),
    ("2006", "%Y"),
    ("-07:00", "%:z"),
    ("-0700", "%z"),
    ("002", "%j"),
    ("01", "%m"),
    ("02", "%d"),
    ("03", "%I"),
    ("04", "%M"),
    ("05", "%S"),
    ("06", "%y"),
    ("15", "%H"),
    ("PM", "%p"),
    ("pm", "%P"),
    ("_2", "%e"),
    ("1", "%-m"),
    ("2", "%-d"),
    ("3", "%-I"),
    ("4", "%-M"),
    ("5", "%-S"),
];

/// A date in one of Go's layouts.
fn format(layout: &str, now: &ZonedDateTime) -> String {
    let mut text = String::new();
    let mut rest = layout;
    while let Some(first) = rest.chars().next() {
        match PIECES.iter().find(|(piece, _)| rest.starts_with(piece)) {
            Some((piece, directive)) => {
                text.push_str(&now.strftime(directive).to_string());
                rest = &rest[piece.len()..];
            }
            None => {
                text.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> ZonedDateTime {
        "2026-03-09T08:07:06+00:00[UTC]".parse().unwrap()
    }

    fn name(pattern: &str, others: &[&str]) -> String {
        invent(pattern, &now(), |name| others.contains(&name), others.iter().copied()).unwrap()
    }

    #[test]
    fn names_by_pattern() {
        assert_eq!(name("", &[]), "snap0");
        assert_eq!(name("", &["snap0", "snap7", "snapx", "other"]), "snap8");
        assert_eq!(name("daily-%d-x", &["daily-3-x", "daily-9"]), "daily-4-x");
        assert_eq!(name("fixed", &[]), "fixed");
        assert_eq!(name("fixed", &["fixed"]), "fixed-0");
        assert_eq!(name("fixed", &["fixed", "fixed-0"]), "fixed-1");
        assert_eq!(name("{{ creation_date|date:'2006-01-02_15-04-05' }}", &[]), "2026-03-09_08-07-06");
        assert_eq!(name("a{{creation_date | date: \"Jan_2\"}}b", &[]), "aMar_9b");
        assert_eq!(name("{{ creation_date }}", &[]), "2026-03-09_08:07:06_+0000_UTC");
        for wrong in [
            "a/b",
            "{{ creation_date",
            "{{ other }}",
            "{{ creation_date|upper }}",
            "{{ creation_date|date:'2006/01' }}",
        ] {
            assert!(check_pattern(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_that_can_be_told_apart_from_paths() {
        for good in ["snap0", "2026-01-01_10:00", "a.b", "ä"] {
            assert_eq!(check(good), Ok(()));
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\n", &"x".repeat(256)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_is_survived_and_names_are_valid(pattern in "\\PC{0,30}|.{0,4}[{][{] creation_date[|]date:'.{0,10}' [}][}].{0,4}") {
            if let Ok(name) = invent(&pattern, &now(), |_| false, []) {
                prop_assert!(check(&name).is_ok());
            }
        }
    }
}
