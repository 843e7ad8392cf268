//! Names of instances.

use rand::seq::IndexedRandom;

/// Longest name; it is a host name, so one DNS label (RFC 1035).
pub const MAX_NAME: usize = 63;

const ADJECTIVES: &[&str] = &[
    "able", "brave", "bright", "calm", "clever", "eager", "fair", "fast", "fond", "free", "glad", "good", "keen",
    "kind", "light", "lively", "loyal", "merry", "mild", "neat", "patient", "proud", "quick", "quiet", "ready",
    "sharp", "smart", "steady", "sunny", "sure", "tidy", "warm", "wise",
];
const ANIMALS: &[&str] = &[
    "ant", "badger", "bear", "beaver", "bee", "crab", "crane", "deer", "dolphin", "duck", "eagle", "falcon", "finch",
    "fox", "gull", "hare", "heron", "ibex", "jay", "lark", "lynx", "mole", "otter", "owl", "pike", "raven", "robin",
    "seal", "shrew", "swan", "toad", "trout", "whale", "wren",
];

/// Checks the name of an instance.
pub fn check(name: &str) -> Result<(), String> {
    let reason = if name.is_empty() || name.len() > MAX_NAME {
        "a name has 1 to 63 characters"
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        "Name can only contain alphanumeric and hyphen characters"
    } else if !name.as_bytes()[0].is_ascii_alphabetic() {
        "a name begins with a letter"
    } else if name.ends_with('-') {
        "a name does not end with a hyphen"
    } else {
        return Ok(());
    };
    Err(format!("Invalid instance name \"{name}\": {reason}"))
}

/// Makes a name up.
pub fn invent() -> String {
    let mut rng = rand::rng();
    let pick = |list: &[&'static str], rng: &mut _| *list.choose(rng).unwrap_or(&"berth");
    format!("{}-{}", pick(ADJECTIVES, &mut rng), pick(ANIMALS, &mut rng))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_host_names() {
        for good in ["c1", "web-1", "A"] {
            assert_eq!(check(good), Ok(()));
        }
        for bad in ["", "1c", "-c", "c-", "a_b", "a.b", "ä", "a/b", &"x".repeat(64)] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert_eq!(check(&invent()), Ok(()));
    }
}
