//! Certificates of clients that are trusted, and how others get trusted: by a password or a token.

mod attempts;
mod certificate;
mod password;
mod tokens;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
};

use berth_store::{Key, Outcome, Rev, Store, StoreError, Txn, doc};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use attempts::Attempts;
pub use certificate::{BadCertificate, Parsed, fingerprint};
pub use password::PasswordHash;
pub use tokens::Tokens;

/// Certificates that are kept.
const MAX_CERTIFICATES: usize = 4096;

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The API.
    Client,
    /// Figures only.
    Metrics,
}

impl Kind {
    /// The wire's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Metrics => "metrics",
        }
    }
}

/// What of a trusted certificate can be changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Name.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Whether it may use nothing but `projects`.
    pub restricted: bool,
    /// Projects it may use if restricted.
    pub projects: BTreeSet<String>,
}

/// A trusted certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: String,
    /// The certificate in PEM.
    pub pem: String,
    /// When it begins to be valid.
    pub not_before: Timestamp,
    /// When it ends to be valid.
    pub not_after: Timestamp,
    /// What it may do.
    #[serde(flatten)]
    pub grant: Grant,
}

impl doc::Document for Trusted {
    const KIND: &'static str = "certificate";
    const VERSION: u32 = 1;
}

/// Why a certificate cannot be kept or changed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It is there.
    #[error("The certificate {0} is in the trust store already")]
    Exists(String),
    /// It is not there, or not any more.
    #[error("Certificate \"{0}\" not found; \"config trust list\" shows those there are")]
    NotFound(String),
    /// A beginning of more than one fingerprint.
    #[error("More than one certificate has a fingerprint that begins with \"{0}\"; give more of it")]
    Ambiguous(String),
    /// The cap.
    #[error("There are {MAX_CERTIFICATES} trusted certificates already; remove some")]
    Full,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

type All = BTreeMap<String, Arc<Trusted>>;

/// The certificates: kept in the store, looked up in memory.
pub struct Trust {
    store: Arc<dyn Store>,
    all: RwLock<(Rev, Arc<All>)>,
    /// Tokens that can be used to get trusted.
    pub tokens: Tokens,
    /// Failed attempts to get trusted.
    pub attempts: Attempts,
}

fn all() -> Key {
    Key::new(&["certificate"])
}

fn key(fingerprint: &str) -> Key {
    all().child(fingerprint)
}

impl Trust {
    /// Reads them.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let (rev, found) = read(&*store).await?;
        let all = RwLock::new((rev, Arc::new(found)));
        Ok(Self { store, all, tokens: Tokens::default(), attempts: Attempts::default() })
    }

    /// All of them, by fingerprint.
    pub fn list(&self) -> Arc<All> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// The one with this fingerprint, if it is valid now.
    pub fn find(&self, fingerprint: &str, now: Timestamp) -> Option<Arc<Trusted>> {
        let found = self.list().get(fingerprint).cloned();
        found.filter(|trusted| (trusted.not_before..=trusted.not_after).contains(&now))
    }

    /// The one whose fingerprint begins so.
    pub fn get(&self, prefix: &str) -> Result<Arc<Trusted>, TrustError> {
        let all = self.list();
        let wanted = prefix.to_ascii_lowercase();
        let mut found = all.range(wanted.clone()..).take_while(|(fingerprint, _)| fingerprint.starts_with(&wanted));
        match (found.next(), found.next()) {
            (Some((_, trusted)), None) if !wanted.is_empty() => Ok(trusted.clone()),
            (Some(_), Some(_)) if !wanted.is_empty() => Err(TrustError::Ambiguous(prefix.to_owned())),
            _ => Err(TrustError::NotFound(prefix.to_owned())),
        }
    }

    /// Trusts a certificate from now on.
    pub async fn add(&self, trusted: &Trusted) -> Result<(), TrustError> {
        if self.list().len() >= MAX_CERTIFICATES {
            return Err(TrustError::Full);
        }
        let key = key(&trusted.fingerprint);
        let txn = Txn::new().absent(key.clone()).write(doc::put(key, trusted));
        match self.commit(txn).await? {
            true => Ok(()),
            false => Err(TrustError::Exists(trusted.fingerprint.clone())),
        }
    }

    /// Changes what a certificate may do.
    pub async fn update(&self, fingerprint: &str, grant: Grant) -> Result<(), TrustError> {
        let key = key(fingerprint);
        let changed = doc::update::<Trusted, TrustError, _>(&*self.store, &key, |trusted| {
            trusted.grant = grant.clone();
            Ok(())
        });
        let changed = changed.await?.is_some();
        self.reload().await?;
        if changed { Ok(()) } else { Err(TrustError::NotFound(fingerprint.to_owned())) }
    }

    /// Trusts a certificate no more.
    pub async fn remove(&self, fingerprint: &str) -> Result<(), TrustError> {
        let key = key(fingerprint);
        match self.commit(Txn::new().exists(key.clone()).delete(key)).await? {
            true => Ok(()),
            false => Err(TrustError::NotFound(fingerprint.to_owned())),
        }
    }

    /// Lets restricted certificates follow a project to its new name; `None`: the project is no more.
    pub async fn project_changed(&self, old: &str, new: Option<&str>) -> Result<(), TrustError> {
        let all = self.list();
        for trusted in all.values().filter(|trusted| trusted.grant.projects.contains(old)) {
            let key = key(&trusted.fingerprint);
            let changed = doc::update::<Trusted, TrustError, _>(&*self.store, &key, |trusted| {
                if trusted.grant.projects.remove(old) {
                    trusted.grant.projects.extend(new.map(str::to_owned));
                }
                Ok(())
            });
            changed.await?;
        }
        self.reload().await
    }

    /// Takes projects that are no more from restricted certificates, so that none made later falls to them.
    pub async fn keep_projects(&self, existing: &BTreeSet<String>) -> Result<(), TrustError> {
        let all = self.list();
        let named: BTreeSet<_> = all.values().flat_map(|trusted| &trusted.grant.projects).collect();
        for gone in named.into_iter().filter(|name| !existing.contains(*name)) {
            self.project_changed(gone, None).await?;
        }
        Ok(())
    }

    async fn commit(&self, txn: Txn) -> Result<bool, TrustError> {
        let outcome = self.store.txn(txn).await?;
        self.reload().await?;
        Ok(matches!(outcome, Outcome::Committed { .. }))
    }

    /// Takes over what the store has, unless something newer was taken over meanwhile.
    async fn reload(&self) -> Result<(), TrustError> {
        let (rev, found) = read(&*self.store).await?;
        let mut current = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if rev >= current.0 {
            *current = (rev, Arc::new(found));
        }
        Ok(())
    }
}

async fn read(store: &dyn Store) -> Result<(Rev, All), StoreError> {
    let snapshot = store.snapshot(&all()).await?;
    let parse = |kv| doc::parse::<Trusted>(kv).map(|found| (found.doc.fingerprint.clone(), Arc::new(found.doc)));
    Ok((snapshot.rev, snapshot.kvs.iter().map(parse).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_store::mem::MemStore;

    fn trusted(fingerprint: &str, projects: &[&str]) -> Trusted {
        Trusted {
            fingerprint: fingerprint.to_owned(),
            pem: String::new(),
            not_before: "2020-01-01T00:00:00Z".parse().unwrap(),
            not_after: "2030-01-01T00:00:00Z".parse().unwrap(),
            grant: Grant {
                name: "n".to_owned(),
                kind: Kind::Client,
                restricted: true,
                projects: projects.iter().map(|&name| name.to_owned()).collect(),
            },
        }
    }

    #[tokio::test]
    async fn they_are_kept_found_by_a_beginning_and_removed() {
        let store: Arc<dyn Store> = Arc::new(MemStore::new());
        let trust = Trust::open(store.clone()).await.unwrap();
        trust.add(&trusted("aab", &[])).await.unwrap();
        trust.add(&trusted("aac", &[])).await.unwrap();
        assert!(matches!(trust.add(&trusted("aab", &[])).await, Err(TrustError::Exists(_))));
        let again = Trust::open(store).await.unwrap();
        assert_eq!(again.get("AAB").unwrap().fingerprint, "aab");
        assert!(matches!(again.get("aa"), Err(TrustError::Ambiguous(_))));
        assert!(matches!(again.get(""), Err(TrustError::NotFound(_))));
        trust.remove("aab").await.unwrap();
        assert!(matches!(trust.remove("aab").await, Err(TrustError::NotFound(_))));
        let grant = Grant { name: "other".into(), ..trusted("", &[]).grant };
        assert!(matches!(trust.update("aab", grant.clone()).await, Err(TrustError::NotFound(_))));
        trust.update("aac", grant).await.unwrap();
        assert_eq!(trust.get("aa").unwrap().grant.name, "other");
    }

    #[tokio::test]
    async fn only_what_is_valid_now_is_trusted() {
        let trust = Trust::open(Arc::new(MemStore::new())).await.unwrap();
        trust.add(&trusted("aa", &[])).await.unwrap();
        let at = |time: &str| trust.find("aa", time.parse().unwrap()).is_some();
        assert!(at("2025-01-01T00:00:00Z") && !at("2019-01-01T00:00:00Z") && !at("2031-01-01T00:00:00Z"));
        assert!(trust.find("a", "2025-01-01T00:00:00Z".parse().unwrap()).is_none());
    }

    #[tokio::test]
    async fn projects_are_followed() {
        let trust = Trust::open(Arc::new(MemStore::new())).await.unwrap();
        trust.add(&trusted("aa", &["p", "q"])).await.unwrap();
        let projects = || trust.get("aa").unwrap().grant.projects.iter().cloned().collect::<Vec<_>>().join(" ");
        trust.project_changed("p", Some("r")).await.unwrap();
        assert_eq!(projects(), "q r");
        trust.project_changed("q", None).await.unwrap();
        assert_eq!(projects(), "r");
        trust.keep_projects(&BTreeSet::from(["default".to_owned()])).await.unwrap();
        assert_eq!(projects(), "");
    }
}
