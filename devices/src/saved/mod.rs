//! Saved state of a machine: a list of sections, each with kind, name and version.
//!
//! ```text
//!   magic  format  count  { kind name version payload }*  SHA-256 of all before
//! ```
//!
//! Numbers are little endian; kind and name have one byte of length before them, payloads (JSON) four. A device keeps
//! what it cannot learn from its configuration in a type that implements [`Saved`]. A section of an older version is
//! upgraded by that type or refused; a newer, foreign, damaged or superfluous one is refused.

mod codec;
#[cfg(test)]
mod tests;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A type that is kept in a section.
pub trait Saved: Serialize + DeserializeOwned {
    /// What it is the state of.
    const KIND: &'static str;
    /// Grows with every change of the type's form or meaning.
    const VERSION: u32;
    /// Makes a payload of an older `version` one of [`VERSION`](Self::VERSION); `None` if that cannot be done.
    fn upgrade(version: u32, payload: Value) -> Option<Value> {
        let _ = (version, payload);
        None
    }
}

/// Why a state cannot be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// See the message.
    #[error("the saved state cannot be read or written: {0}")]
    Io(#[from] std::io::Error),
    /// See the message.
    #[error("this is not the saved state of a virtual machine")]
    Foreign,
    /// See the message.
    #[error(
        "the saved state has format {0}, which this release does not know; restore it with the release that made it"
    )]
    Format(u32),
    /// See the message.
    #[error("the saved state is damaged: {0}")]
    Damaged(&'static str),
    /// See the message.
    #[error(
        "the saved state of {name} ({kind}) has version {version}, this release knows {known}; restore it with the \
         release that made it"
    )]
    Version {
        /// Kind of the section.
        kind: String,
        /// Its name.
        name: String,
        /// What it has.
        version: u32,
        /// What is known.
        known: u32,
    },
    /// See the message.
    #[error("the saved state has nothing of {name} ({kind}): the machine's devices were changed since")]
    Missing {
        /// Kind of the section.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// See the message.
    #[error(
        "the saved state tells of {name} ({kind}), which the machine does not have: its devices were changed since"
    )]
    Superfluous {
        /// Kind of the section.
        kind: String,
        /// Its name.
        name: String,
    },
    /// See the message.
    #[error("the saved state of {name} ({kind}) makes no sense: {reason}")]
    Payload {
        /// Kind of the section.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// See the message.
    #[error("the saved state does not fit the machine: {what} was {saved} and is {now}")]
    Changed {
        /// Which property.
        what: String,
        /// When it was saved.
        saved: String,
        /// As configured.
        now: String,
    },
}

impl StateError {
    /// A section whose content is impossible.
    pub fn payload<S: Saved>(name: &str, reason: impl Into<String>) -> Self {
        Self::Payload { kind: S::KIND, name: name.to_owned(), reason: reason.into() }
    }

    /// Fails if a property was changed since the state was saved.
    pub fn if_changed<T: PartialEq + std::fmt::Debug>(what: &str, saved: &T, now: &T) -> Result<(), Self> {
        if saved == now {
            return Ok(());
        }
        Err(Self::Changed { what: what.to_owned(), saved: format!("{saved:?}"), now: format!("{now:?}") })
    }
}

/// One section.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    kind: String,
    name: String,
    version: u32,
    payload: Vec<u8>,
}

/// The sections of a machine. Saving adds to them, restoring takes them out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sections(Vec<Section>);

impl Sections {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `state` of `name`.
    pub fn add<S: Saved>(&mut self, name: &str, state: &S) -> Result<(), StateError> {
        let payload = serde_json::to_vec(state).map_err(|error| StateError::payload::<S>(name, error.to_string()))?;
        let (kind, name) = (S::KIND.to_owned(), name.to_owned());
        self.0.push(Section { kind, name, version: S::VERSION, payload });
        Ok(())
    }

    /// Takes the state of `name` out.
    pub fn take<S: Saved>(&mut self, name: &str) -> Result<S, StateError> {
        let found = self.0.iter().position(|section| section.kind == S::KIND && section.name == name);
        let missing = || StateError::Missing { kind: S::KIND, name: name.to_owned() };
        let Section { kind, name, version, payload } = self.0.swap_remove(found.ok_or_else(missing)?);
        let wrong = |error: serde_json::Error| StateError::payload::<S>(&name, error.to_string());
        if version == S::VERSION {
            return serde_json::from_slice(&payload).map_err(wrong);
        }
        let old = (version < S::VERSION).then(|| serde_json::from_slice(&payload)).transpose().map_err(wrong)?;
        match old.and_then(|old| S::upgrade(version, old)) {
            Some(upgraded) => serde_json::from_value(upgraded).map_err(wrong),
            None => Err(StateError::Version { kind, name, version, known: S::VERSION }),
        }
    }

    /// Changes the payload of every section.
    #[cfg(test)]
    pub(crate) fn forge(&mut self, mut change: impl FnMut(&str, Value) -> Value) {
        for Section { kind, payload, .. } in &mut self.0 {
            let changed = change(kind, serde_json::from_slice(payload).unwrap());
            *payload = serde_json::to_vec(&changed).unwrap();
        }
    }

    /// Fails if something is left that nobody took.
    pub fn finish(self) -> Result<(), StateError> {
        match self.0.into_iter().next() {
            Some(Section { kind, name, .. }) => Err(StateError::Superfluous { kind, name }),
            None => Ok(()),
        }
    }
}
