//! Typed documents: JSON objects with a version.
//!
//! A document is kept as `{"v": VERSION, …}`. An older version is lifted in memory when it is read and written in the
//! current form the next time it changes; a newer one is refused with an error that names both versions, because
//! writing it back would lose what this release does not know.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Key, Kv, LeaseId, Outcome, Rev, Store, StoreError, Txn, Write};

/// How often [`update`] tries again when somebody else was faster.
const ATTEMPTS: usize = 16;

/// A type that is kept in the store.
pub trait Document: Serialize + DeserializeOwned {
    /// What it is called in messages, such as `instance`.
    const KIND: &'static str;
    /// The version that is written.
    const VERSION: u32;

    /// Turns the JSON of an older `version` into that of [`Document::VERSION`].
    ///
    /// A type that never changed needs none.
    fn upgrade(version: u32, _value: Value) -> Result<Value, String> {
        Err(format!("version {version} of it is not known"))
    }
}

/// A document with the revision to compare with when it is written back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<D> {
    /// The document.
    pub doc: D,
    /// Revision of the transaction that wrote it last.
    pub mod_rev: Rev,
}

/// Reads the document at `key`.
pub async fn get<D: Document>(store: &dyn Store, key: &Key) -> Result<Option<Versioned<D>>, StoreError> {
    store.get(key).await?.map(|kv| parse(&kv)).transpose()
}

/// Reads all documents at and below `prefix`, in the order of their keys.
pub async fn list<D: Document>(store: &dyn Store, prefix: &Key) -> Result<Vec<(Key, Versioned<D>)>, StoreError> {
    let kvs = store.range(prefix).await?;
    kvs.into_iter().map(|kv| parse(&kv).map(|doc| (kv.key, doc))).collect()
}

/// Reads a document out of what a list or a watch gave.
pub fn parse<D: Document>(kv: &Kv) -> Result<Versioned<D>, StoreError> {
    let fail = |reason: String| StoreError::Document { key: kv.key.clone(), kind: D::KIND, reason };
    let mut object: Map<String, Value> = serde_json::from_slice(&kv.value).map_err(|e| fail(e.to_string()))?;
    let found = object.remove("v").and_then(|v| v.as_u64()).ok_or_else(|| fail("it has no version".to_owned()))?;
    let mut value = Value::Object(object);
    match u32::try_from(found) {
        Ok(version) if version == D::VERSION => {}
        Ok(version) if version < D::VERSION => value = D::upgrade(version, value).map_err(fail)?,
        _ => {
            return Err(StoreError::NewerDocument { key: kv.key.clone(), kind: D::KIND, found, supported: D::VERSION });
        }
    }
    let doc = serde_json::from_value(value).map_err(|e| fail(e.to_string()))?;
    Ok(Versioned { doc, mod_rev: kv.mod_rev })
}

/// The write that sets `key` to the document.
///
/// # Panics
///
/// If the type is not written as a JSON object, or has a field of its own named `v`: both are mistakes in the type.
pub fn put<D: Document>(key: Key, doc: &D) -> Write {
    Write::Put { key, value: encode(doc).into(), lease: None }
}

/// Like [`put`], under a lease.
pub fn put_leased<D: Document>(key: Key, doc: &D, lease: LeaseId) -> Write {
    Write::Put { key, value: encode(doc).into(), lease: Some(lease) }
}

/// Changes the document at `key` and returns it as it is then; `None` if there is none.
///
/// `change` may run several times, each time on what is there by then; an error of it ends the attempt.
pub async fn update<D, E, F>(store: &dyn Store, key: &Key, mut change: F) -> Result<Option<Versioned<D>>, E>
where
    D: Document,
    E: From<StoreError>,
    F: FnMut(&mut D) -> Result<(), E>,
{
    for _ in 0..ATTEMPTS {
        let Some(Versioned { mut doc, mod_rev }) = get::<D>(store, key).await? else { return Ok(None) };
        change(&mut doc)?;
        let txn = Txn::new().mod_rev(key.clone(), mod_rev).write(put(key.clone(), &doc));
        if let Outcome::Committed { rev } = store.txn(txn).await? {
            return Ok(Some(Versioned { doc, mod_rev: rev }));
        }
    }
    Err(StoreError::Contended(key.clone()).into())
}

fn encode<D: Document>(doc: &D) -> Vec<u8> {
    let value = serde_json::to_value(doc).unwrap_or_else(|error| panic!("{} cannot be written: {error}", D::KIND));
    let Value::Object(fields) = value else { panic!("{} is not written as a JSON object", D::KIND) };
    assert!(!fields.contains_key("v"), "{} has a field named v", D::KIND);
    let mut object = Map::with_capacity(fields.len() + 1);
    object.insert("v".to_owned(), D::VERSION.into());
    object.extend(fields);
    Value::Object(object).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::mem::MemStore;

    #[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
    struct Lamp {
        watts: u32,
        #[serde(flatten)]
        extra: Map<String, Value>,
    }

    impl Document for Lamp {
        const KIND: &'static str = "lamp";
        const VERSION: u32 = 2;

        fn upgrade(version: u32, mut value: Value) -> Result<Value, String> {
            assert_eq!(version, 1);
            let volts = value.as_object_mut().and_then(|o| o.remove("power")).ok_or("no power")?;
            value["watts"] = volts;
            Ok(value)
        }
    }

    fn key() -> Key {
        Key::new(&["lamp", "desk"])
    }

    async fn with(value: &str) -> MemStore {
        let store = MemStore::new();
        store.txn(Txn::new().put(key(), value.to_owned())).await.unwrap();
        store
    }

    #[tokio::test]
    async fn round_trip_keeps_unknown_fields() {
        let store = with(r#"{"v":2,"watts":5,"colour":"red"}"#).await;
        let lamp = get::<Lamp>(&store, &key()).await.unwrap().unwrap();
        assert_eq!(lamp.doc.watts, 5);
        store.txn(Txn::new().mod_rev(key(), lamp.mod_rev).write(put(key(), &lamp.doc))).await.unwrap();
        let kv = store.get(&key()).await.unwrap().unwrap();
        assert_eq!(kv.value.as_ref(), br#"{"v":2,"watts":5,"colour":"red"}"#);
    }

    #[tokio::test]
    async fn older_versions_are_lifted() {
        let store = with(r#"{"v":1,"power":7}"#).await;
        assert_eq!(list::<Lamp>(&store, &Key::new(&["lamp"])).await.unwrap()[0].1.doc.watts, 7);
    }

    #[tokio::test]
    async fn newer_versions_are_refused_by_name() {
        let store = with(r#"{"v":3,"candela":7}"#).await;
        let text = get::<Lamp>(&store, &key()).await.unwrap_err().to_string();
        assert!(text.contains("lamp document at lamp/desk") && text.contains("version 3") && text.contains("up to 2"));
    }

    #[tokio::test]
    async fn damaged_documents_are_named() {
        for bad in ["", "[]", "{}", r#"{"v":"x"}"#, r#"{"v":2}"#, r#"{"v":1}"#] {
            let error = get::<Lamp>(&with(bad).await, &key()).await.unwrap_err();
            assert!(matches!(&error, StoreError::Document { .. }), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn updates_do_not_get_lost() {
        let store = std::sync::Arc::new(with(r#"{"v":2,"watts":0}"#).await);
        let tasks = (0..8).map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                update::<Lamp, StoreError, _>(&*store, &key(), |lamp| {
                    lamp.watts += 1;
                    Ok(())
                })
                .await
            })
        });
        for task in futures::future::join_all(tasks).await {
            task.unwrap().unwrap().unwrap();
        }
        assert_eq!(get::<Lamp>(&*store, &key()).await.unwrap().unwrap().doc.watts, 8);
        let none = update::<Lamp, StoreError, _>(&*store, &Key::new(&["lamp", "none"]), |_| Ok(())).await.unwrap();
        assert!(none.is_none());
    }
}
