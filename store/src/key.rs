//! Keys: percent-encoded segments joined with `/`.

use std::fmt;

/// A key, or a prefix of keys.
///
/// Segments may hold anything (image aliases hold `/`); they are encoded so that `/` only ever separates. Keys sort by
/// their encoded form, which keeps everything below a prefix together.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// What stands for a segment without characters: it cannot be the encoding of any other segment.
const EMPTY: &str = "%";

impl Key {
    /// Makes a key of its plain segments.
    pub fn new(segments: &[&str]) -> Key {
        let mut text = String::with_capacity(segments.iter().map(|s| s.len() + 1).sum());
        for (i, segment) in segments.iter().enumerate() {
            if i > 0 {
                text.push('/');
            }
            encode(segment, &mut text);
        }
        Key(text)
    }

    /// The prefix of all keys.
    pub fn root() -> Key {
        Key(String::new())
    }

    /// The key one segment further down.
    pub fn child(&self, segment: &str) -> Key {
        let mut text = self.0.clone();
        if !text.is_empty() {
            text.push('/');
        }
        encode(segment, &mut text);
        Key(text)
    }

    /// The plain segments.
    pub fn segments(&self) -> Vec<String> {
        if self.0.is_empty() { Vec::new() } else { self.0.split('/').map(decode).collect() }
    }

    /// The last plain segment; empty for the root.
    pub fn name(&self) -> String {
        self.0.rsplit('/').next().map(decode).unwrap_or_default()
    }

    /// The encoded form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `key` is this key or below it.
    pub fn covers(&self, key: &Key) -> bool {
        match key.0.strip_prefix(&self.0) {
            Some(rest) => self.0.is_empty() || rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }

    /// Takes a key back from its encoded form, as drivers keep it.
    pub(crate) fn from_encoded(text: String) -> Key {
        Key(text)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

fn encode(segment: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if segment.is_empty() {
        out.push_str(EMPTY);
    }
    for &byte in segment.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:@+".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

fn decode(text: &str) -> String {
    if text == EMPTY {
        return String::new();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn encodes_what_is_special() {
        let key = Key::new(&["alias", "default", "debian/12 €"]);
        assert_eq!(key.as_str(), "alias/default/debian%2F12%20%E2%82%AC");
        assert_eq!(key.name(), "debian/12 €");
        assert_eq!(Key::new(&["ix", "mac", "02:00:5e:00:00:01"]).as_str(), "ix/mac/02:00:5e:00:00:01");
    }

    #[test]
    fn prefixes_match_whole_segments() {
        let prefix = Key::new(&["inst", "de"]);
        assert!(prefix.covers(&Key::new(&["inst", "de", "c1"])));
        assert!(prefix.covers(&prefix));
        assert!(!prefix.covers(&Key::new(&["inst", "default", "c1"])));
        assert!(!prefix.covers(&Key::new(&["inst"])));
        assert!(Key::root().covers(&prefix));
    }

    proptest! {
        #[test]
        fn segments_survive(segments in proptest::collection::vec(".{0,6}", 1..5)) {
            let plain: Vec<&str> = segments.iter().map(String::as_str).collect();
            let key = Key::new(&plain);
            prop_assert_eq!(key.segments(), segments.clone());
            let stepwise = plain.iter().fold(Key::root(), |key, segment| key.child(segment));
            prop_assert_eq!(&stepwise, &key);
            prop_assert!(Key::new(&plain[..plain.len() - 1]).covers(&key));
        }
    }
}
