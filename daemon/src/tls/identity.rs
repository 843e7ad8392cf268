//! The server's certificate and key: made at the first start, kept in the data directory.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::trust::fingerprint;

/// File of the certificate.
const CERTIFICATE: &str = "server.crt";
/// File of its key.
const KEY: &str = "server.key";
/// How long a new certificate is valid. Clients know it by its fingerprint and keep it.
const YEARS: i16 = 10;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in a file.
    #[error("{} holds no certificate or key in PEM: {reason}; restore it, or remove {CERTIFICATE} and {KEY} to get new ones, which every client has to accept anew", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Making one.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// The server's certificate and key.
pub struct Identity {
    /// Certificate.
    pub certificate: CertificateDer<'static>,
    /// The same in PEM.
    pub pem: String,
    /// SHA-256 of it, hexadecimal.
    pub fingerprint: String,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads it from the data directory, or makes it there. The certificate is written last, so that one that is there
    /// has its key.
    pub fn open(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(CERTIFICATE);
        let pem = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (certificate, key) = make(&host_name())?;
                write(&dir.join(KEY), &key, 0o600)?;
                write(&path, &certificate, 0o644)?;
                certificate
            }
            other => other.map_err(|source| IdentityError::File { path: path.clone(), source })?,
        };
        let key_path = dir.join(KEY);
        let key = fs::read(&key_path).map_err(|source| IdentityError::File { path: key_path.clone(), source })?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|reason| IdentityError::Content { path, reason: reason.to_string() })?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|reason| IdentityError::Content { path: key_path, reason: reason.to_string() })?;
        Ok(Self { fingerprint: fingerprint(&certificate), certificate, pem, key })
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A certificate that signs itself and its key, both in PEM.
fn make(host: &str) -> Result<(String, String), IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)?;
    // A host may be called what no certificate can name.
    let mut params = CertificateParams::new(vec![host.to_owned()])
        .or_else(|_| CertificateParams::new(vec!["localhost".to_owned()]))?;
    params.subject_alt_names.extend(["127.0.0.1", "::1"].map(|ip| SanType::IpAddress(ip.parse().expect("an address"))));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Berth");
    params.distinguished_name.push(DnType::CommonName, format!("root@{host}"));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let today = jiff::tz::TimeZone::UTC.to_datetime(Timestamp::now()).date();
    // The 28th exists in all months. A day earlier, for clocks that are late.
    let (month, day) = (today.month().unsigned_abs(), today.day().unsigned_abs().clamp(2, 28));
    params.not_before = rcgen::date_time_ymd(today.year().into(), month, day - 1);
    params.not_after = rcgen::date_time_ymd((today.year() + YEARS).into(), month, day);
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Writes a file so that it is there whole or not at all.
fn write(path: &Path, content: &str, mode: u32) -> Result<(), IdentityError> {
    let temporary = path.with_extension("new");
    let put = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    put().map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_made_once_and_the_key_is_for_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path()).unwrap();
        assert_eq!(Identity::open(dir.path()).unwrap().fingerprint, first.fingerprint);
        assert_eq!(fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(super::super::acceptor(&first).is_ok());
    }

    #[test]
    fn what_was_left_half_made_is_made_anew_and_what_is_broken_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(KEY), "half").unwrap();
        Identity::open(dir.path()).unwrap();
        fs::write(dir.path().join(CERTIFICATE), "x").unwrap();
        let error = Identity::open(dir.path()).err().unwrap();
        assert!(error.to_string().contains("server.crt"), "{error}");
    }

    #[test]
    fn any_host_name_will_do() {
        for host in ["h", "ä b", "", "a.b.c"] {
            make(host).unwrap_or_else(|error| panic!("{host}: {error}"));
        }
    }
}
