//! What users configure of pools.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::StorageError;

/// A pool's configuration, as clients see it.
pub type Config = BTreeMap<String, String>;

/// A size in bytes: a number with an optional unit, `kB MB GB TB PB EB` (powers of 1000) or
/// `KiB MiB GiB TiB PiB EiB` (powers of 1024).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let complaint = || format!("\"{text}\" is not a size; use a number and a unit such as 512MiB or 10GB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| complaint())?;
    let factor: u64 = match &text[digits..] {
        "" | "B" => 1,
        "kB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "TB" => 1000_u64.pow(4),
        "PB" => 1000_u64.pow(5),
        "EB" => 1000_u64.pow(6),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "PiB" => 1 << 50,
        "EiB" => 1 << 60,
        _ => return Err(complaint()),
    };
    number.checked_mul(factor).ok_or_else(|| format!("\"{text}\" is more than fits 64 bits; use a smaller size"))
}

pub(crate) fn bad_value(pool: &str, key: &str, value: &str, reason: String) -> StorageError {
    StorageError::BadValue { pool: pool.to_owned(), key: key.to_owned(), value: value.to_owned(), reason }
}

/// Refuses keys that are neither among `known` nor the user's own.
pub(crate) fn check_known(pool: &str, config: &Config, known: &[&str]) -> Result<(), StorageError> {
    for key in config.keys() {
        if known.contains(&key.as_str()) || key.strip_prefix("user.").is_some_and(|rest| !rest.is_empty()) {
            continue;
        }
        let near = known.iter().find(|known| strsim::damerau_levenshtein(known, key) <= 3);
        let hint = match near {
            Some(known) => format!(": did you mean {known:?}?"),
            None => ": keys of your own begin with \"user.\"".to_owned(),
        };
        return Err(StorageError::UnknownKey { pool: pool.to_owned(), key: key.clone(), hint });
    }
    Ok(())
}

/// A directory of the user's must be there and empty: a pool shares its place with nobody.
pub(crate) fn check_empty_directory(path: &str) -> Result<(), String> {
    match std::fs::read_dir(path) {
        _ if !Path::new(path).is_absolute() => Err("it must be an absolute path".to_owned()),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err("the directory is not empty".to_owned()),
        },
        Err(error) => Err(format!("it cannot be read as a directory: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("10GB"), Ok(10_000_000_000));
        assert_eq!(parse_size("42"), Ok(42));
        for wrong in ["", "GiB", "1.5GiB", "-1", "10 GiB", "10gib", "99999999999EiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_size_panics(text in ".{0,24}") {
            let _ = parse_size(&text);
        }
    }
}
