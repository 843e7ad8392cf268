//! Paths of the API, quoted.

use std::fmt::{self, Write as _};

/// A path below `/1.0` with its query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    path: String,
    has_query: bool,
}

impl Endpoint {
    /// `/1.0` and these segments; what a segment must not hold is percent-encoded.
    ///
    /// ```
    /// use berth_api::client::Endpoint;
    /// let endpoint = Endpoint::new(&["instances", "c1", "files"]).query("path", "/tmp/a b");
    /// assert_eq!(endpoint.as_str(), "/1.0/instances/c1/files?path=%2Ftmp%2Fa%20b");
    /// ```
    #[must_use]
    pub fn new(segments: &[&str]) -> Self {
        let mut path = String::from("/1.0");
        for segment in segments {
            path.push('/');
            quote(segment, &mut path);
        }
        Self { path, has_query: false }
    }

    /// A path as the server (`operation`, `location`) or the user (`berth query`) wrote it.
    #[must_use]
    pub fn raw(path: impl Into<String>) -> Self {
        let path = path.into();
        let has_query = path.contains('?');
        Self { path, has_query }
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, key: &str, value: &str) -> Self {
        self.path.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        quote(key, &mut self.path);
        self.path.push('=');
        quote(value, &mut self.path);
        self
    }

    /// Adds a query parameter without value: `true`.
    #[must_use]
    pub fn flag(self, key: &str, on: bool) -> Self {
        if on { self.query(key, "true") } else { self }
    }

    /// Whether the query has this key.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        let Some((_, query)) = self.path.split_once('?') else { return false };
        query.split('&').any(|pair| pair.split_once('=').map_or(pair, |(name, _)| name) == key)
    }

    /// More segments; only before the first query parameter.
    #[must_use]
    pub fn join(mut self, segments: &[&str]) -> Self {
        let (path, query) = match self.path.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (self.path, None),
        };
        self.path = path;
        for segment in segments {
            self.path.push('/');
            quote(segment, &mut self.path);
        }
        if let Some(query) = query {
            self.path.push('?');
            self.path.push_str(&query);
        }
        self
    }

    /// The request target.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
fn quote(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
}

/// The percent-encoded form of a text, for headers that hold a query string.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    quote(text, &mut out);
    out
}

/// The text of a percent-encoded path segment; bytes that are no UTF-8 are replaced.
#[must_use]
pub fn unquoted(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let decoded = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        out.push(decoded.unwrap_or(bytes[at]));
        at += if decoded.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queries_are_joined() {
        let endpoint = Endpoint::new(&["instances"]).query("filter", "").flag("all-projects", true).flag("x", false);
        assert_eq!(endpoint.as_str(), "/1.0/instances?filter=&all-projects=true");
        assert!(endpoint.has("filter") && endpoint.has("all-projects") && !endpoint.has("x"));
        let endpoint = Endpoint::raw("/1.0/operations/x?project=p").join(&["wait"]).query("timeout", "-1");
        assert_eq!(endpoint.as_str(), "/1.0/operations/x/wait?project=p&timeout=-1");
    }

    proptest! {
        #[test]
        fn any_segment_stays_one_segment(segment in ".*") {
            let endpoint = Endpoint::new(&["instances", &segment, "state"]);
            let parts: Vec<&str> = endpoint.as_str().split('/').collect();
            prop_assert_eq!(parts.len(), 5);
            prop_assert!(endpoint.as_str().is_ascii());
            prop_assert!(!endpoint.as_str().contains(['?', '#', ' ', '&']));
            prop_assert_eq!(unquoted(parts[3]), segment);
            let uri: http::Uri = endpoint.as_str().parse().unwrap();
            prop_assert_eq!(uri.path(), endpoint.as_str());
        }

        #[test]
        fn any_query_value_comes_back(value in ".*") {
            let endpoint = Endpoint::new(&["x"]).query("path", &value).query("next", "1");
            let query = endpoint.as_str().split_once('?').unwrap().1;
            prop_assert_eq!(unquoted(query.strip_prefix("path=").unwrap().strip_suffix("&next=1").unwrap()), value);
        }

        #[test]
        fn unquoting_never_panics(text in ".*") {
            let _ = unquoted(&text);
        }
    }
}
