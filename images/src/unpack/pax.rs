//! Extended header records of POSIX tar archives.
//!
//! Written out here since values are binary (file capabilities) and may hold newlines, which line-wise readers lose.

/// Records of one extended header, later ones after earlier ones.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    /// Parses `LENGTH KEY=VALUE\n` records; `None` if they are malformed.
    pub fn parse(mut data: &[u8]) -> Option<Self> {
        let mut records = Vec::new();
        while !data.is_empty() {
            let space = data.iter().take(12).position(|&b| b == b' ')?;
            let length: usize = std::str::from_utf8(&data[..space]).ok()?.parse().ok()?;
            let record = data.get(space + 1..length)?;
            let (&last, pair) = record.split_last()?;
            let equals = pair.iter().position(|&b| b == b'=')?;
            if last != b'\n' {
                return None;
            }
            records.push((pair[..equals].to_vec(), pair[equals + 1..].to_vec()));
            data = &data[length..];
        }
        Some(Self(records))
    }

    /// The last value of `key`.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.iter().rev().find(|(k, _)| k == key.as_bytes()).map(|(_, value)| value.as_slice())
    }

    /// The last value of `key` as a number; a fraction is cut off.
    pub fn number(&self, key: &str) -> Option<i64> {
        std::str::from_utf8(self.get(key)?).ok()?.split('.').next()?.parse().ok()
    }

    /// Extended attributes with their values.
    pub fn attributes(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().filter_map(|(key, value)| Some((key.strip_prefix(b"SCHILY.xattr.")?, value.as_slice())))
    }

    /// Whether a GNU sparse file is described.
    pub fn sparse(&self) -> bool {
        self.0.iter().any(|(key, _)| key.starts_with(b"GNU.sparse."))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
    }

    #[test]
    fn values_may_hold_newlines() {
        let data = [record(b"SCHILY.xattr.security.capability", b"\x01\n=\n"), record(b"mtime", b"12.5")].concat();
        let records = Records::parse(&data).expect("records");
        assert_eq!(records.attributes().next(), Some((&b"security.capability"[..], &b"\x01\n=\n"[..])));
        assert_eq!(records.number("mtime"), Some(12));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Records::parse(&data);
        }

        #[test]
        fn records_come_back(key in "[a-z.]{1,20}", value in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let records = Records::parse(&record(key.as_bytes(), &value)).expect("records");
            prop_assert_eq!(records.get(&key), Some(value.as_slice()));
        }
    }
}
