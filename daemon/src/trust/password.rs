//! The password by which clients get trusted, of which only a hash is kept.

use std::fmt;

use rand::RngCore;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// Cost of scrypt: N = 2^15, r = 8, p = 1 take 32 MiB and about a tenth of a second (OWASP, password storage).
const LOG_N: u8 = 15;
const R: u32 = 8;
const P: u32 = 1;
/// Bytes of salt and of hash.
const LENGTH: usize = 32;

/// A password's hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash {
    #[serde(with = "hex")]
    salt: [u8; LENGTH],
    #[serde(with = "hex")]
    scrypt: [u8; LENGTH],
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

impl PasswordHash {
    /// Hashes a password. Takes long.
    pub fn new(password: &str) -> Self {
        let mut salt = [0; LENGTH];
        rand::rng().fill_bytes(&mut salt);
        Self { salt, scrypt: hash(password, &salt) }
    }

    /// Compares a password, in a time that does not depend on how much of it is right. Takes long.
    pub fn verify(&self, password: &str) -> bool {
        hash(password, &self.salt).ct_eq(&self.scrypt).into()
    }
}

fn hash(password: &str, salt: &[u8]) -> [u8; LENGTH] {
    let mut hash = [0; LENGTH];
    let params = scrypt::Params::new(LOG_N, R, P).expect("the costs are valid");
    scrypt::scrypt(password.as_bytes(), salt, &params, &mut hash).expect("the length is valid");
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_fits_its_hash() {
        let hash = PasswordHash::new("correct horse");
        assert!(hash.verify("correct horse"));
        assert!(!hash.verify("correct horsE") && !hash.verify(""));
        assert_ne!(PasswordHash::new("correct horse"), hash, "the salt differs");
        let kept = serde_json::to_string(&hash).unwrap();
        assert!(!kept.contains("correct"));
        assert_eq!(serde_json::from_str::<PasswordHash>(&kept).unwrap(), hash);
    }
}
