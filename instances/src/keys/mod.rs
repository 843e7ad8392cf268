//! Which configuration keys an instance has, and what their values look like.
//!
//! Only keys that do what they say are here. A key of LXD's that Berth does not serve yet is refused with a text
//! that says so, rather than stored and ignored.

mod forms;
mod table;

use crate::model::{Config, Kind};
pub(crate) use forms::{allowance, cpus, modules, priority, rlimit};
use table::{FREE_PREFIXES, KEYS, NOT_YET, NOT_YET_PREFIXES, SYSCTL};

/// Checks a whole configuration; all complaints in one text. `kind` is absent for a profile.
pub fn validate(config: &Config, kind: Option<Kind>) -> Result<(), String> {
    let complaints: Vec<String> = config.iter().filter_map(|(key, value)| complaint(key, value, kind)).collect();
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
}

fn complaint(key: &str, value: &str, kind: Option<Kind>) -> Option<String> {
    if FREE_PREFIXES.iter().any(|prefix| key.len() > prefix.len() && key.starts_with(prefix)) {
        return None;
    }
    if let Some(setting) = key.strip_prefix(SYSCTL)
        && !forms::is_sysctl(setting)
    {
        return Some(format!("key \"{key}\": \"{setting}\" is no kernel setting; use for example net.ipv4.ip_forward"));
    }
    let found = KEYS.iter().find(|(name, ..)| *name == key || (*name == SYSCTL && key.starts_with(SYSCTL)));
    let Some((_, form, applies)) = found else { return Some(unknown(key)) };
    if let Some(refusal) = kind.and_then(|kind| applies.refusal(kind)) {
        return Some(format!("key \"{key}\" applies to {refusal}"));
    }
    if value.is_empty() {
        return None;
    }
    form.check(value).err().map(|reason| format!("value of \"{key}\": {reason}"))
}

fn unknown(key: &str) -> String {
    if NOT_YET.contains(&key) || NOT_YET_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
        return format!("key \"{key}\" is not supported by this version of Berth; leave it out");
    }
    let known = KEYS.iter().map(|(name, ..)| *name);
    match closest(key, known) {
        Some(near) => format!("unknown configuration key \"{key}\"; did you mean \"{near}\"?"),
        None => format!("unknown configuration key \"{key}\"; own keys begin with \"user.\""),
    }
}

/// The known word nearest to `word`, if one is near enough to be meant.
pub(crate) fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NEAR: usize = 3;
    known.map(|k| (strsim::damerau_levenshtein(word, k), k)).filter(|(d, _)| *d <= NEAR).min().map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &str, kind: Option<Kind>) -> Result<(), String> {
        validate(&Config::from([(key.to_owned(), value.to_owned())]), kind)
    }

    #[test]
    fn served_keys_take_good_values_only() {
        for (key, value) in [
            ("limits.cpu", "2"),
            ("limits.cpu", "0-1"),
            ("limits.memory", "50%"),
            ("limits.memory", "512MiB"),
            ("limits.cpu.allowance", "25ms/100ms"),
            ("user.anything", "at all"),
            ("environment.LANG", "C"),
            ("limits.memory", ""),
            ("linux.sysctl.net.ipv4.ip_forward", "1"),
            ("linux.kernel_modules", "ip_tables, br_netfilter"),
        ] {
            assert_eq!(one(key, value, Some(Kind::Container)), Ok(()), "{key}={value}");
        }
        for (key, value) in [
            ("limits.cpu", "0"),
            ("limits.memory", "lots"),
            ("limits.memory", "101%"),
            ("security.nesting", "maybe"),
            ("limits.cpu.allowance", "25ms/10s"),
            ("user.", "x"),
            ("linux.sysctl.", "1"),
            ("linux.sysctl.net/../x", "1"),
            ("linux.sysctl.net..x", "1"),
            ("linux.kernel_modules", "--all"),
        ] {
            assert!(one(key, value, Some(Kind::Container)).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        assert!(one("limits.memry", "1GiB", None).unwrap_err().contains("did you mean \"limits.memory\""));
    }

    #[test]
    fn known_but_unserved_keys_say_so() {
        assert!(one("security.privileged", "true", None).unwrap_err().contains("not supported by this version"));
        assert!(
            one("security.syscalls.intercept.mknod", "true", None)
                .unwrap_err()
                .contains("not supported by this version")
        );
    }

    #[test]
    fn keys_of_one_kind_are_refused_for_the_other() {
        assert!(one("limits.processes", "100", Some(Kind::VirtualMachine)).is_err());
        assert_eq!(one("limits.processes", "100", None), Ok(()), "a profile may serve both kinds");
        assert!(one("migration.stateful", "true", Some(Kind::Container)).is_err());
        assert_eq!(one("migration.stateful", "true", Some(Kind::VirtualMachine)), Ok(()));
    }
}
