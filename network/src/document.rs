//! What the store knows of networks.

use berth_store::doc::Document;
use berth_store::{Admission, Key, Rev, Store, Txn, admitted, doc};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::NetworkError;

/// A managed network, at `net/<project>/<name>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NetworkDoc {
    pub description: String,
    pub config: Config,
}

impl Document for NetworkDoc {
    const KIND: &'static str = "network";
    const VERSION: u32 = 1;
}

/// Claims the name of a link, at `ix/link/<name>`: links are shared by all projects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LinkClaim {
    pub project: String,
}

impl Document for LinkClaim {
    const KIND: &'static str = "link claim";
    const VERSION: u32 = 1;
}

/// Settings of networks as a whole, at `cfg/network`; written when the first start is done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The network that new instances are put on.
    pub default: Option<String>,
}

impl Document for Settings {
    const KIND: &'static str = "network settings";
    const VERSION: u32 = 1;
}

/// A network with its place in the store.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub project: String,
    pub name: String,
    pub doc: NetworkDoc,
    pub mod_rev: Rev,
}

pub(crate) fn key(project: &str, name: &str) -> Key {
    Key::new(&["net", project, name])
}

pub(crate) fn claim_key(name: &str) -> Key {
    Key::new(&["ix", "link", name])
}

pub(crate) fn settings_key() -> Key {
    Key::new(&["cfg", "network"])
}

/// All managed networks.
pub(crate) async fn all(store: &dyn Store) -> Result<Vec<Stored>, NetworkError> {
    let found = doc::list::<NetworkDoc>(store, &Key::new(&["net"])).await?;
    let stored = found.into_iter().filter_map(|(key, versioned)| {
        let [_, project, name] = <[String; 3]>::try_from(key.segments()).ok()?;
        Some(Stored { project, name, doc: versioned.doc, mod_rev: versioned.mod_rev })
    });
    Ok(stored.collect())
}

/// The managed network of this name, in whatever project.
pub(crate) async fn by_name(store: &dyn Store, name: &str) -> Result<Option<Stored>, NetworkError> {
    let Some(claim) = doc::get::<LinkClaim>(store, &claim_key(name)).await? else { return Ok(None) };
    get(store, &claim.doc.project, name).await
}

/// A managed network of a project.
pub(crate) async fn get(store: &dyn Store, project: &str, name: &str) -> Result<Option<Stored>, NetworkError> {
    let found = doc::get::<NetworkDoc>(store, &key(project, name)).await?;
    Ok(found.map(|found| Stored {
        project: project.to_owned(),
        name: name.to_owned(),
        doc: found.doc,
        mod_rev: found.mod_rev,
    }))
}

/// Writes a new network and claims its link, if its project admits it.
pub(crate) async fn create(
    store: &dyn Store,
    project: &str,
    name: &str,
    network: &NetworkDoc,
    admission: &dyn Admission,
) -> Result<Rev, NetworkError> {
    let claim = LinkClaim { project: project.to_owned() };
    let txn = Txn::new().absent(key(project, name)).absent(claim_key(name));
    let txn = txn.write(doc::put(key(project, name), network)).write(doc::put(claim_key(name), &claim));
    let outcome = admitted(store, &txn, admission, 0).await?;
    outcome.committed().ok_or_else(|| NetworkError::Exists(name.to_owned()))
}

/// Writes a changed network.
pub(crate) async fn replace(store: &dyn Store, stored: &Stored, network: &NetworkDoc) -> Result<Rev, NetworkError> {
    let key = key(&stored.project, &stored.name);
    let txn = Txn::new().mod_rev(key.clone(), stored.mod_rev).write(doc::put(key, network));
    store.txn(txn).await?.committed().ok_or_else(|| NetworkError::Contended(stored.name.clone()))
}

/// Removes a network and gives its link free; with new settings, should it have been the default one.
pub(crate) async fn delete(
    store: &dyn Store,
    project: &str,
    name: &str,
    settings: Option<&Settings>,
) -> Result<(), NetworkError> {
    let txn = Txn::new().delete(key(project, name)).delete(claim_key(name));
    let txn = settings.iter().fold(txn, |txn, settings| txn.write(doc::put(settings_key(), *settings)));
    store.txn(txn).await?;
    Ok(())
}

/// The settings, unless this is the first start.
pub(crate) async fn settings(store: &dyn Store) -> Result<Option<Settings>, NetworkError> {
    Ok(doc::get::<Settings>(store, &settings_key()).await?.map(|found| found.doc))
}

/// Writes the settings.
pub(crate) async fn set_settings(store: &dyn Store, settings: &Settings) -> Result<(), NetworkError> {
    store.txn(Txn::new().write(doc::put(settings_key(), settings))).await?;
    Ok(())
}
