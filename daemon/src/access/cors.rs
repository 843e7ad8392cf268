//! Headers that let pages of other origins use the API (Fetch standard, CORS), as far as the configuration says.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::settings::Settings;

/// Keys of the configuration and the headers that tell their values.
const HEADERS: [(&str, HeaderName); 3] = [
    ("core.https_allowed_origin", header::ACCESS_CONTROL_ALLOW_ORIGIN),
    ("core.https_allowed_methods", header::ACCESS_CONTROL_ALLOW_METHODS),
    ("core.https_allowed_headers", header::ACCESS_CONTROL_ALLOW_HEADERS),
];

/// Adds them to an answer, if the request came from a page.
pub fn add(settings: &Settings, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
    if origin.is_none() || settings.get(HEADERS[0].0).is_none() {
        return;
    }
    for (key, name) in HEADERS {
        if let Some(value) = settings.get(key).and_then(|value| HeaderValue::from_str(&value).ok()) {
            answer.insert(name, value);
        }
    }
    if settings.flag("core.https_allowed_credentials", false) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}
