//! `config device` and `profile device`.

use anyhow::{Result, bail};
use berth_api::{Devices, instances::Instance, profiles::Profile};
use clap::Subcommand;

use crate::{
    object::{self, HasDevices, Object},
    output, pairs, target,
    target::Context,
};

/// Work with devices
#[derive(Debug, Subcommand)]
pub enum Device {
    /// Add a device
    Add {
        /// Whose
        owner: String,
        /// Name of the device
        device: String,
        /// Type: disk, nic, ...
        #[arg(value_name = "TYPE")]
        kind: String,
        /// KEY=VALUE
        options: Vec<String>,
    },
    /// Show a value of a device
    Get {
        /// Whose
        owner: String,
        /// Name of the device
        device: String,
        /// Key
        key: String,
    },
    /// List the devices
    List {
        /// Whose
        owner: String,
    },
    /// Take a profile's device over into the instance, and change it
    Override {
        /// Instance
        owner: String,
        /// Name of the device
        device: String,
        /// KEY=VALUE
        options: Vec<String>,
    },
    /// Remove devices
    #[command(alias = "rm")]
    Remove {
        /// Whose
        owner: String,
        /// Names of the devices
        #[arg(required = true)]
        devices: Vec<String>,
    },
    /// Set values of a device
    Set {
        /// Whose
        owner: String,
        /// Name of the device
        device: String,
        /// KEY=VALUE, or a key and a value
        #[arg(required = true)]
        options: Vec<String>,
    },
    /// Show all devices
    Show {
        /// Whose
        owner: String,
    },
    /// Remove a value of a device
    Unset {
        /// Whose
        owner: String,
        /// Name of the device
        device: String,
        /// Key
        key: String,
    },
}

impl Device {
    /// Runs the command for an instance.
    pub async fn run_instance(self, context: &Context) -> Result<()> {
        match self {
            Self::Override { owner, device, options } => {
                let name = target::required(&owner, "instance")?;
                let (instance, _) = object::read::<Instance>(context, name).await?;
                let options = pairs::map(&options)?;
                if instance.devices.contains_key(&device) {
                    bail!("`{name}` has its own `{device}` already: change it with `berth config device set`");
                }
                let Some(inherited) = instance.expanded_devices.get(&device) else {
                    bail!("no profile of `{name}` has a device `{device}`; {}", known(&instance.expanded_devices));
                };
                object::change::<Instance>(context, name, |put| {
                    let mut values = inherited.clone();
                    values.extend(options.clone());
                    put.devices.insert(device.clone(), values);
                    Ok(())
                })
                .await
            }
            other => other.run::<Instance>(context).await,
        }
    }

    /// Runs the command for a profile.
    pub async fn run_profile(self, context: &Context) -> Result<()> {
        match self {
            Self::Override { .. } => bail!("devices are overridden in instances: `berth config device override`"),
            other => other.run::<Profile>(context).await,
        }
    }

    async fn run<T: Object>(self, context: &Context) -> Result<()>
    where
        T::Put: HasDevices,
    {
        match self {
            Self::Add { owner, device, kind, options } => {
                let options = pairs::map(&options)?;
                object::change::<T>(context, target::required(&owner, T::KIND)?, |put| {
                    let devices = put.devices();
                    if devices.contains_key(&device) {
                        bail!("there is a device `{device}` already: change it with `device set`");
                    }
                    let mut values = options.clone();
                    values.insert("type".into(), kind.clone());
                    devices.insert(device.clone(), values);
                    Ok(())
                })
                .await
            }
            Self::Remove { owner, devices: names } => {
                object::change::<T>(context, target::required(&owner, T::KIND)?, |put| {
                    for name in &names {
                        find(put.devices(), name)?;
                        put.devices().remove(name);
                    }
                    Ok(())
                })
                .await
            }
            Self::Set { owner, device, options } => {
                let options = pairs::assignments(&options)?;
                object::change::<T>(context, target::required(&owner, T::KIND)?, |put| {
                    for (key, value) in &options {
                        find(put.devices(), &device)?.insert(key.clone(), value.clone());
                    }
                    Ok(())
                })
                .await
            }
            Self::Unset { owner, device, key } => {
                object::change::<T>(context, target::required(&owner, T::KIND)?, |put| {
                    find(put.devices(), &device)?.remove(&key);
                    Ok(())
                })
                .await
            }
            Self::Get { owner, device, key } => {
                let mut put = read::<T>(context, &owner).await?;
                let value = find(put.devices(), &device)?.get(&key).cloned().unwrap_or_default();
                output::print(&(value + "\n"))
            }
            Self::List { owner } => {
                let mut put = read::<T>(context, &owner).await?;
                output::print(&put.devices().keys().map(|name| name.clone() + "\n").collect::<String>())
            }
            Self::Show { owner } => output::print_yaml(read::<T>(context, &owner).await?.devices()),
            Self::Override { .. } => bail!("only an instance can override a device"),
        }
    }
}

async fn read<T: Object>(context: &Context, owner: &str) -> Result<T::Put> {
    Ok(object::read::<T>(context, target::required(owner, T::KIND)?).await?.0.into())
}

fn find<'a>(devices: &'a mut Devices, name: &str) -> Result<&'a mut berth_api::Config> {
    if !devices.contains_key(name) {
        bail!("there is no device `{name}` of its own here; {}", known(devices));
    }
    Ok(devices.entry(name.to_owned()).or_default())
}

fn known(devices: &Devices) -> String {
    if devices.is_empty() {
        return "there are none".into();
    }
    format!("there are: {}", devices.keys().cloned().collect::<Vec<_>>().join(", "))
}
