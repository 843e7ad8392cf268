//! Tokens: secrets that get a certificate trusted, each once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use berth_api::certificates::CertificateAddToken;
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;

use super::Grant;

/// Tokens at a time.
const MAX_TOKENS: usize = 1024;

/// Tokens that can be used; clones share them.
#[derive(Clone, Default)]
pub struct Tokens {
    open: Arc<Mutex<HashMap<String, Open>>>,
}

struct Open {
    grant: Grant,
    used: oneshot::Sender<()>,
}

/// A token; dropping it ends it.
pub struct Token {
    tokens: Tokens,
    secret: String,
    used: oneshot::Receiver<()>,
}

impl Tokens {
    /// Makes a token with this secret; `None` if there are too many.
    pub fn add(&self, secret: &str, grant: Grant) -> Option<Token> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_TOKENS {
            return None;
        }
        let (sender, used) = oneshot::channel();
        open.insert(secret.to_owned(), Open { grant, used: sender });
        Some(Token { tokens: self.clone(), secret: secret.to_owned(), used })
    }

    /// Uses a token, as its user was given it, up; tells what it grants.
    pub fn take(&self, text: &str) -> Option<Grant> {
        let given = decode(text)?.secret;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // All are compared, in the same time whatever is right of the secret.
        let found = open.keys().fold(None, |found, secret| {
            let same: bool = secret.as_bytes().ct_eq(given.as_bytes()).into();
            if same { Some(secret.clone()) } else { found }
        });
        let Open { grant, used } = open.remove(&found?)?;
        // Fails if it was revoked just now.
        used.send(()).ok().map(|()| grant)
    }
}

impl Token {
    /// Waits until somebody uses it.
    pub async fn used(mut self) {
        // The sender goes only by being used, or with `self`.
        let _ = (&mut self.used).await;
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.tokens.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.secret);
    }
}

/// Whether a client's secret is a token by its form; then it is no password.
fn decode(text: &str) -> Option<CertificateAddToken> {
    let json = STANDARD.decode(text.trim()).ok()?;
    serde_json::from_slice::<CertificateAddToken>(&json).ok().filter(|token| !token.secret.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Kind;

    fn text(secret: &str) -> String {
        let token = CertificateAddToken { secret: secret.to_owned(), ..CertificateAddToken::default() };
        STANDARD.encode(serde_json::to_vec(&token).unwrap())
    }

    #[tokio::test]
    async fn a_token_is_used_once() {
        let tokens = Tokens::default();
        let grant = Grant { name: "n".into(), kind: Kind::Client, restricted: true, projects: ["p".to_owned()].into() };
        let token = tokens.add("secret", grant.clone()).unwrap();
        for wrong in ["", "secret", "c2VjcmV0", &text(""), &text("secre"), &text("secret2")] {
            assert!(tokens.take(wrong).is_none(), "{wrong}");
        }
        assert_eq!(tokens.take(&text("secret")), Some(grant.clone()));
        token.used().await;
        assert!(tokens.take(&text("secret")).is_none());
        drop(tokens.add("other", grant).unwrap());
        assert!(tokens.take(&text("other")).is_none(), "revoked");
    }
}
