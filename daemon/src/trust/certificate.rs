//! Reading certificates.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest certificate that is read, as it comes.
const MAX_CERTIFICATE: usize = 64 * 1024;

/// SHA-256 of a certificate in DER, hexadecimal.
pub fn fingerprint(der: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(der.as_ref()))
}

/// Why it is no certificate.
#[derive(Debug, thiserror::Error)]
#[error("This is no X.509 certificate in PEM, or in base64 of its DER: {0}")]
pub struct BadCertificate(String);

/// A certificate.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed {
    /// DER.
    pub der: Vec<u8>,
    /// When it begins to be valid.
    pub not_before: Timestamp,
    /// When it ends to be valid.
    pub not_after: Timestamp,
}

impl Parsed {
    /// Reads PEM, or base64 of DER, as clients send it.
    pub fn from_text(text: &str) -> Result<Self, BadCertificate> {
        if text.len() > MAX_CERTIFICATE {
            return Err(BadCertificate(format!("it is longer than {MAX_CERTIFICATE} bytes")));
        }
        if text.contains("-----BEGIN") {
            let der = CertificateDer::from_pem_slice(text.as_bytes());
            return Self::from_der(&der.map_err(|error| BadCertificate(error.to_string()))?);
        }
        let packed: String = text.split_whitespace().collect();
        Self::from_der(&STANDARD.decode(packed).map_err(|error| BadCertificate(error.to_string()))?)
    }

    /// Reads DER.
    pub fn from_der(der: &[u8]) -> Result<Self, BadCertificate> {
        if der.len() > MAX_CERTIFICATE {
            return Err(BadCertificate(format!("it is longer than {MAX_CERTIFICATE} bytes")));
        }
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| BadCertificate(error.to_string()))?;
        if !rest.is_empty() {
            return Err(BadCertificate("something follows it".to_owned()));
        }
        let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp());
        let out_of_range = |error: jiff::Error| BadCertificate(error.to_string());
        Ok(Self {
            der: der.to_owned(),
            not_before: time(certificate.validity().not_before).map_err(out_of_range)?,
            not_after: time(certificate.validity().not_after).map_err(out_of_range)?,
        })
    }

    /// SHA-256, hexadecimal.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.der)
    }

    /// PEM.
    pub fn pem(&self) -> String {
        let base64 = STANDARD.encode(&self.der);
        // Base64 is ASCII, and so are its pieces.
        let lines: Vec<_> = base64.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn der() -> Vec<u8> {
        rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap().cert.der().to_vec()
    }

    #[test]
    fn certificates_are_read_in_both_forms() {
        let der = der();
        let parsed = Parsed::from_der(&der).unwrap();
        assert!(parsed.not_before < parsed.not_after);
        assert_eq!(Parsed::from_text(&parsed.pem()).unwrap(), parsed);
        assert_eq!(Parsed::from_text(&STANDARD.encode(&der)).unwrap(), parsed);
        assert_eq!(parsed.fingerprint().len(), 64);
        let mut longer = der.clone();
        longer.push(0);
        assert!(Parsed::from_der(&longer).is_err());
        for bad in ["", "x", "-----BEGIN CERTIFICATE-----", "AAAA", &"A".repeat(MAX_CERTIFICATE + 4)] {
            assert!(Parsed::from_text(bad).is_err(), "{bad:.40}");
        }
    }

    proptest! {
        #[test]
        fn damaged_certificates_break_nothing(at in 0usize..400, byte: u8, length in 0usize..600) {
            let mut der = der();
            let at = at % der.len();
            der[at] = byte;
            der.truncate(length);
            let _ = Parsed::from_der(&der);
            let _ = Parsed::from_text(&String::from_utf8_lossy(&der));
        }
    }
}
