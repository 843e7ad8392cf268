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
    Err(format!("Invalid instance name \"{}\": {reason}", name.escape_debug()))
}

/// Makes a name up that is not `taken`.
pub fn invent(taken: impl Fn(&str) -> bool) -> String {
    /// Names without a number to try; there are about a thousand.
    const PLAIN: u32 = 64;
    let mut rng = rand::rng();
    let pick = |list: &[&'static str], rng: &mut _| *list.choose(rng).unwrap_or(&"berth");
    let mut attempts = 0;
    loop {
        let mut name = format!("{}-{}", pick(ADJECTIVES, &mut rng), pick(ANIMALS, &mut rng));
        if attempts >= PLAIN {
            name = format!("{name}-{attempts}");
        }
        if !taken(&name) {
            return name;
        }
        attempts += 1;
    }
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
        assert_eq!(check(&invent(|_| false)), Ok(()));
    }

    #[test]
    fn a_name_is_found_when_all_plain_ones_are_taken() {
        let name = invent(|name| name.bytes().filter(|b| *b == b'-').count() < 2);
        assert_eq!(check(&name), Ok(()));
    }
}
