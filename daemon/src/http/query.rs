//! The query parameters that all endpoints share.

use std::collections::HashMap;

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde_json::Value;

use super::{ApiError, filter::Filter};

/// Name of the project that is meant when none is named.
pub const DEFAULT_PROJECT: &str = "default";

/// The query string, parsed.
#[derive(Debug, Clone, Default)]
pub struct Query {
    params: HashMap<String, String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let axum::extract::Query(params) =
            axum::extract::Query::<HashMap<String, String>>::from_request_parts(parts, state)
                .await
                .map_err(|error| ApiError::invalid(format!("Invalid query string: {error}")))?;
        Ok(Self { params })
    }
}

impl Query {
    /// A parameter's value; an empty one counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// A boolean parameter.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(is_true)
    }

    /// `recursion=`; anything that is no number is 0.
    pub fn recursion(&self) -> u32 {
        self.get("recursion").and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    /// The project named, else `default`.
    pub fn project(&self) -> &str {
        self.get("project").unwrap_or(DEFAULT_PROJECT)
    }

    /// The project of a list: `None` for all of them.
    pub fn list_project(&self) -> Result<Option<&str>, ApiError> {
        if !self.flag("all-projects") {
            return Ok(Some(self.project()));
        }
        if self.get("project").is_some() {
            return Err(ApiError::invalid("Cannot specify a project when requesting all projects"));
        }
        Ok(None)
    }

    /// `filter=`; an empty one lets everything through.
    pub fn filter(&self) -> Result<Filter, ApiError> {
        Filter::parse(self.get("filter").unwrap_or_default())
            .map_err(|error| ApiError::invalid(format!("Invalid filter: {error}")))
    }
}

/// LXD's notion of a true value.
pub fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on")
}

/// A URL of an object with its project, which the default project does not show.
pub fn url(base: &str, name: &str, project: &str) -> String {
    let name = encode_path(name);
    if project == DEFAULT_PROJECT {
        format!("{base}/{name}")
    } else {
        format!("{base}/{name}?project={}", encode_path(project))
    }
}

/// Percent-encodes what may not stand in a path segment (or a query value).
pub fn encode_path(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A list as the wire wants it: URLs at recursion 0, else the objects, filtered either way.
pub fn render_list(query: &Query, items: Vec<(String, Value)>) -> Result<Value, ApiError> {
    let filter = query.filter()?;
    let objects = query.recursion() > 0;
    Ok(items
        .into_iter()
        .filter(|(_, object)| filter.matches(object))
        .map(|(url, object)| if objects { object } else { Value::String(url) })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Query {
        Query { params: pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect() }
    }

    #[test]
    fn an_empty_project_is_the_default_one() {
        assert_eq!(query(&[("project", "")]).project(), "default");
        assert_eq!(query(&[("project", "x")]).list_project().unwrap(), Some("x"));
        assert_eq!(query(&[("all-projects", "true")]).list_project().unwrap(), None);
        assert!(query(&[("all-projects", "true"), ("project", "x")]).list_project().is_err());
    }

    #[test]
    fn urls_show_the_project_only_outside_the_default_one() {
        assert_eq!(url("/1.0/instances", "c1", "default"), "/1.0/instances/c1");
        assert_eq!(url("/1.0/profiles", "a/b", "p"), "/1.0/profiles/a%2Fb?project=p");
    }

    #[test]
    fn lists_are_urls_or_objects() {
        let items = || {
            vec![("/a".to_string(), serde_json::json!({"name": "a"})), ("/b".into(), serde_json::json!({"name": "b"}))]
        };
        assert_eq!(render_list(&query(&[]), items()).unwrap(), serde_json::json!(["/a", "/b"]));
        let filtered = query(&[("recursion", "1"), ("filter", "name eq b")]);
        assert_eq!(render_list(&filtered, items()).unwrap(), serde_json::json!([{"name": "b"}]));
    }
}
