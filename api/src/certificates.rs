//! Certificates of trusted clients.

use serde::{Deserialize, Serialize};

use crate::{Time, or_default};

/// A trusted certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// Name.
    pub name: String,
    /// `client`, `server` or `metrics`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it may only use `projects`.
    pub restricted: bool,
    /// Projects it may use.
    #[serde(deserialize_with = "or_default")]
    pub projects: Vec<String>,
    /// PEM.
    pub certificate: String,
    /// SHA-256 of the DER form, hex.
    pub fingerprint: String,
}

/// What of a certificate can be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificatePut {
    /// Name.
    pub name: String,
    /// `client`, `server` or `metrics`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it may only use `projects`.
    pub restricted: bool,
    /// Projects it may use.
    #[serde(deserialize_with = "or_default")]
    pub projects: Vec<String>,
    /// PEM.
    pub certificate: String,
}

/// A new trusted certificate, or a request for a token to add one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificatesPost {
    /// Name.
    pub name: String,
    /// `client`, `server` or `metrics`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it may only use `projects`.
    pub restricted: bool,
    /// Projects it may use.
    #[serde(deserialize_with = "or_default")]
    pub projects: Vec<String>,
    /// Base64 of the DER form, or PEM; the connection's certificate if empty.
    pub certificate: String,
    /// Trust password or token of an untrusted client.
    pub password: String,
    /// Make a token instead.
    pub token: bool,
}

/// What a token for adding a certificate holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateAddToken {
    /// Name the certificate will have.
    pub client_name: String,
    /// Fingerprint of the server.
    pub fingerprint: String,
    /// Addresses of the server.
    #[serde(deserialize_with = "or_default")]
    pub addresses: Vec<String>,
    /// Secret.
    pub secret: String,
    /// When it expires.
    pub expires_at: Time,
}
