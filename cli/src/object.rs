//! What profiles, networks, pools, projects and instances have in common: a configuration that is read, changed key
//! by key, and edited as YAML.

use anyhow::{Context as _, Result, bail};
use berth_api::{
    Client, Config, Devices, Endpoint,
    client::Method,
    instances::{Instance, InstancePut},
    networks::{Network, NetworkPut},
    profiles::{Profile, ProfilePut},
    projects::{Project, ProjectPut},
    storage::{StoragePool, StoragePoolPut},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{editor, output, target::Context};

/// How often a change is tried again when somebody else was faster.
const ATTEMPTS: usize = 5;

/// A kind of object with a configuration.
pub trait Object: DeserializeOwned + Serialize {
    /// What of it can be changed.
    type Put: Serialize + DeserializeOwned + From<Self> + HasConfig;
    /// Name of the kind, for messages.
    const KIND: &'static str;
    /// Collection in the API.
    const COLLECTION: &'static str;
    /// Hints on top of the text in the editor.
    const HELP: &'static str;

    /// Endpoint of an object.
    fn endpoint(name: &str) -> Endpoint {
        Endpoint::new(&[Self::COLLECTION, name])
    }
}

/// Has a configuration.
pub trait HasConfig {
    /// The configuration.
    fn config(&mut self) -> &mut Config;
}

/// Has devices.
pub trait HasDevices {
    /// The devices.
    fn devices(&mut self) -> &mut Devices;
}

macro_rules! object {
    ($object:ty, $put:ty, $kind:literal, $collection:literal, $help:literal) => {
        impl Object for $object {
            type Put = $put;
            const KIND: &'static str = $kind;
            const COLLECTION: &'static str = $collection;
            const HELP: &'static str = $help;
        }

        impl HasConfig for $put {
            fn config(&mut self) -> &mut Config {
                &mut self.config
            }
        }
    };
}

object!(
    Instance,
    InstancePut,
    "instance",
    "instances",
    "The configuration of the instance. Lines that begin with # are left out.\n\nconfig:\n  limits.cpu: \"2\"\n  \
     limits.memory: 1GiB\ndevices:\n  data:\n    type: disk\n    source: /srv\n    path: /srv"
);
object!(
    Profile,
    ProfilePut,
    "profile",
    "profiles",
    "The profile. Lines that begin with # are left out.\n\nconfig:\n  limits.memory: 1GiB\ndevices:\n  eth0:\n    type: \
     nic\n    network: berthbr0"
);
object!(
    Network,
    NetworkPut,
    "network",
    "networks",
    "The network. Lines that begin with # are left out.\n\nconfig:\n  ipv4.address: 10.62.42.1/24\n  ipv4.nat: \"true\""
);
object!(
    StoragePool,
    StoragePoolPut,
    "storage pool",
    "storage-pools",
    "The storage pool. Lines that begin with # are left out."
);
object!(
    Project,
    ProjectPut,
    "project",
    "projects",
    "The project. Lines that begin with # are left out.\n\nconfig:\n  features.images: \"true\""
);

impl HasDevices for InstancePut {
    fn devices(&mut self) -> &mut Devices {
        &mut self.devices
    }
}

impl HasDevices for ProfilePut {
    fn devices(&mut self) -> &mut Devices {
        &mut self.devices
    }
}

/// Reads, changes and writes an object. When somebody else changes it meanwhile, all is done again.
pub async fn change<T: Object>(
    context: &Context,
    name: &str,
    mut edit: impl FnMut(&mut T::Put) -> Result<()>,
) -> Result<()> {
    let endpoint = T::endpoint(name);
    let mut attempt = 1;
    loop {
        let (object, etag) = read::<T>(context, name).await?;
        let mut put = T::Put::from(object);
        edit(&mut put)?;
        match write(context, &endpoint, &put, etag.as_deref()).await {
            Err(error) if attempt < ATTEMPTS && is_conflict(&error) => attempt += 1,
            result => return result,
        }
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    error.downcast_ref::<berth_api::Error>().is_some_and(berth_api::Error::is_precondition_failed)
}

/// Reads an object and its version.
pub async fn read<T: Object>(context: &Context, name: &str) -> Result<(T, Option<String>)> {
    let read = context.client.get_with_etag(&T::endpoint(name)).await;
    read.with_context(|| format!("cannot read {} `{name}`", T::KIND))
}

async fn write<P: Serialize>(context: &Context, endpoint: &Endpoint, put: &P, etag: Option<&str>) -> Result<()> {
    let answer = context.client.request(Method::PUT, endpoint, Client::json(put)?, etag).await?;
    context.finish(answer, "").await.map(|_| ())
}

/// Prints a value of the configuration; an empty line if it is not set.
pub async fn get<T: Object>(context: &Context, name: &str, key: &str) -> Result<()> {
    let (object, _) = read::<T>(context, name).await?;
    let mut put = T::Put::from(object);
    output::print(&(put.config().remove(key).unwrap_or_default() + "\n"))
}

/// Sets values of the configuration.
pub async fn set<T: Object>(context: &Context, name: &str, values: &Config) -> Result<()> {
    change::<T>(context, name, |put| {
        for (key, value) in values {
            // LXD's way to unset a key.
            if value.is_empty() {
                put.config().remove(key);
            } else {
                put.config().insert(key.clone(), value.clone());
            }
        }
        Ok(())
    })
    .await
}

/// Removes a key from the configuration.
pub async fn unset<T: Object>(context: &Context, name: &str, key: &str) -> Result<()> {
    change::<T>(context, name, |put| match put.config().remove(key) {
        Some(_) => Ok(()),
        None => bail!("`{key}` is not set in {} `{name}`", T::KIND),
    })
    .await
}

/// Prints an object.
pub async fn show<T: Object>(context: &Context, name: &str) -> Result<()> {
    let (object, _) = read::<T>(context, name).await?;
    output::print_yaml(&object)
}

/// Lets the user edit an object.
pub async fn edit<T: Object>(context: &Context, name: &str) -> Result<()> {
    let endpoint = T::endpoint(name);
    let (object, etag) = read::<T>(context, name).await?;
    let put = T::Put::from(object);
    // From standard input the text replaces what is there, whatever that is.
    let etag = etag.filter(|_| crate::terminal::stdin_is_terminal());
    editor::edit(&put, T::HELP, async |put: T::Put| write(context, &endpoint, &put, etag.as_deref()).await).await
}
