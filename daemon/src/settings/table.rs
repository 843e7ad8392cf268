//! The keys of the server's configuration.

use std::time::Duration;

use berth_images::Compression;

use super::address;

/// What a value must be.
type Check = fn(&str) -> Result<(), String>;

/// Keys that work, with what their values must be.
const KEYS: &[(&str, Check)] = &[
    ("backups.compression_algorithm", |value| Compression::parse(value).map(drop)),
    ("core.https_address", |value| address::parse(value).map(drop)),
    ("core.https_allowed_credentials", boolean),
    ("core.https_allowed_headers", header),
    ("core.https_allowed_methods", header),
    ("core.https_allowed_origin", header),
    ("core.metrics_address", |value| address::parse(value).map(drop)),
    ("core.metrics_authentication", boolean),
    ("core.remote_token_expiry", |value| expiry(value).map(drop)),
    ("core.shutdown_timeout", |value| minutes(value).map(drop)),
    ("core.trust_password", |_| Ok(())),
    ("images.compression_algorithm", |value| Compression::parse(value).map(drop)),
];

/// Keys of LXD, or beginnings of their names, that this version does not have, and why.
const MISSING: &[(&str, &str)] = &[
    ("candid.", "clients are known by their certificates only"),
    ("cluster.", "this version has no clusters"),
    ("core.bgp_", "this version speaks no BGP"),
    ("core.debug_address", "start the daemon with --debug to log more"),
    ("core.dns_address", "this version serves no DNS zones"),
    ("core.https_trusted_proxy", "this version takes no PROXY protocol"),
    ("core.proxy_", "the daemon downloads nothing by itself; set the variables of the environment where it is started"),
    ("core.trust_ca_certificates", "add each certificate with \"config trust add\""),
    ("images.auto_update_", "images are not downloaded from other servers yet"),
    ("images.default_architecture", "images have the architecture of the host"),
    ("images.remote_cache_expiry", "images are not downloaded from other servers yet"),
    ("maas.", "this version knows no MAAS"),
    ("network.ovn.", "this version has no OVN networks"),
    ("rbac.", "clients are confined by restricted certificates only"),
    ("storage.backups_volume", "backups lie in the data directory"),
    ("storage.images_volume", "images lie in the data directory"),
];

/// Longest value.
const MAX_VALUE: usize = 64 * 1024;

/// Fails if there is no such key or the value is not one of it. An empty value unsets a key, whatever it is.
pub fn check(key: &str, value: &str) -> Result<(), String> {
    if value.len() > MAX_VALUE {
        return Err(format!("The value of \"{key}\" is longer than {MAX_VALUE} bytes"));
    }
    if key.strip_prefix("user.").is_some_and(|rest| !rest.is_empty()) || value.is_empty() && missing(key).is_some() {
        return Ok(());
    }
    let Some((_, check)) = KEYS.iter().find(|(name, _)| *name == key) else { return Err(unknown(key)) };
    if value.is_empty() {
        return Ok(());
    }
    check(value).map_err(|reason| format!("Invalid value \"{}\" of \"{key}\": {reason}", value.escape_debug()))
}

fn missing(key: &str) -> Option<&'static str> {
    let is = |name: &str| key == name || (name.ends_with(['.', '_']) && key.starts_with(name));
    MISSING.iter().find(|(name, _)| is(name)).map(|(_, why)| *why)
}

fn unknown(key: &str) -> String {
    if let Some(why) = missing(key) {
        return format!("\"{key}\" cannot be set: {why}");
    }
    let near = KEYS.iter().map(|(known, _)| (strsim::damerau_levenshtein(known, key), *known)).min();
    let hint = match near {
        Some((distance, known)) if distance <= 3 => format!("; did you mean \"{known}\"?"),
        _ => "; keys of your own begin with \"user.\"".to_owned(),
    };
    format!("Unknown server configuration key \"{key}\"{hint}")
}

fn boolean(value: &str) -> Result<(), String> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" | "false" | "0" | "no" | "off" => Ok(()),
        _ => Err("it is true or false".to_owned()),
    }
}

/// What may stand in the header of an answer.
fn header(value: &str) -> Result<(), String> {
    http::HeaderValue::from_str(value)
        .map(drop)
        .map_err(|_| "it must be printable ASCII, for it goes into headers".into())
}

/// A number of minutes.
pub fn minutes(value: &str) -> Result<Duration, String> {
    let minutes: u32 = value.parse().map_err(|_| "it is a number of minutes".to_owned())?;
    Ok(Duration::from_secs(u64::from(minutes) * 60))
}

/// How long something holds: numbers with units, such as `1d 12H` (S, M, H, d, w, m, y).
pub fn expiry(value: &str) -> Result<Duration, String> {
    const DAY: u64 = 24 * 60 * 60;
    let part = |word: &str| -> Option<u64> {
        let unit = word.chars().last()?;
        let number: u64 = word.strip_suffix(unit)?.parse().ok()?;
        let seconds = match unit {
            'S' => 1,
            'M' => 60,
            'H' => 60 * 60,
            'd' => DAY,
            'w' => 7 * DAY,
            'm' => 30 * DAY,
            'y' => 365 * DAY,
            _ => return None,
        };
        number.checked_mul(seconds)
    };
    let sum = value.split_whitespace().try_fold(0u64, |sum, word| sum.checked_add(part(word)?));
    // Beyond this a point of time could not be told.
    match sum.filter(|seconds| (1..=1000 * 365 * DAY).contains(seconds)) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err("it is numbers with units, such as \"1d 12H\" (S, M, H, d, w, m, y)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_are_checked() {
        for (key, value) in [
            ("core.https_address", "[::]:8443"),
            ("core.https_allowed_credentials", "True"),
            ("core.shutdown_timeout", "0"),
            ("core.remote_token_expiry", "1d 12H"),
            ("images.compression_algorithm", "zstd"),
            ("user.x", "\n"),
            ("core.proxy_http", ""),
        ] {
            check(key, value).unwrap();
        }
        for (key, value, said) in [
            ("core.https_address", "x:y", "core.https_address"),
            ("core.shutdown_timeout", "-1", "minutes"),
            ("core.remote_token_expiry", "1h", "units"),
            ("core.metrics_authentication", "maybe", "true or false"),
            ("core.https_allowed_origin", "a\r\nX: y", "ASCII"),
            ("images.compression_algorithm", "rar", "zstd"),
            ("core.proxy_http", "http://x", "environment"),
            ("cluster.max_voters", "3", "clusters"),
            ("core.trust_pasword", "x", "did you mean \"core.trust_password\""),
            ("user.", "x", "begin with"),
        ] {
            let error = check(key, value).unwrap_err();
            assert!(error.contains(said), "{key}: {error}");
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!(expiry("1d 1H").unwrap(), Duration::from_secs(25 * 3600));
        assert_eq!(expiry("5S").unwrap(), Duration::from_secs(5));
        for bad in ["", "5", "S", "-1S", "99999999999999999999y", "18446744073709551615y", "0S", "1é"] {
            assert!(expiry(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_breaks_the_parsers(key in ".{0,40}", value in ".{0,60}") {
            let _ = (check(&key, &value), expiry(&value), minutes(&value));
            for (known, _) in KEYS {
                let _ = check(known, &value);
            }
        }
    }
}
