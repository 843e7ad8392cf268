//! `berth config`.

use anyhow::{Result, bail};
use berth_api::{
    Client, Endpoint,
    client::Method,
    exec::InstanceMetadata,
    instances::{Instance, InstancePut, InstanceSnapshot},
    server::{Server, ServerPut},
};
use clap::Subcommand;
use serde_json::Value;

use super::{device::Device, launch, trust::Trust};
use crate::{complete, editor, object, output, pairs, target, target::Context};

/// Configure instances and the server
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Work with devices of an instance
    #[command(subcommand)]
    Device(Device),
    /// Edit the configuration of an instance, or of the server
    Edit {
        /// Instance; the server without
        #[arg(add = complete::instances())]
        instance: Option<String>,
    },
    /// Show a value: [INSTANCE] KEY
    Get {
        /// [INSTANCE] KEY
        #[arg(required = true, num_args = 1..=2, value_name = "INSTANCE KEY", add = complete::instances())]
        arguments: Vec<String>,
        /// With what the profiles say
        #[arg(short, long)]
        expanded: bool,
    },
    /// Set values: [INSTANCE] KEY=VALUE..., or [INSTANCE] KEY VALUE
    Set {
        /// [INSTANCE] KEY=VALUE...
        #[arg(required = true, value_name = "INSTANCE KEY=VALUE", add = complete::instances(), allow_negative_numbers = true)]
        arguments: Vec<String>,
    },
    /// Show the configuration of an instance, or of the server
    Show {
        /// Instance or INSTANCE/SNAPSHOT; the server without
        #[arg(add = complete::instances())]
        instance: Option<String>,
        /// With what the profiles say
        #[arg(short, long)]
        expanded: bool,
    },
    /// Remove a value: [INSTANCE] KEY
    Unset {
        /// [INSTANCE] KEY
        #[arg(required = true, num_args = 1..=2, value_name = "INSTANCE KEY", add = complete::instances())]
        arguments: Vec<String>,
    },
    /// Work with the metadata of an instance's image
    #[command(subcommand)]
    Metadata(Metadata),
    /// Work with clients that the server trusts
    #[command(subcommand)]
    Trust(Trust),
}

/// Work with the metadata of an instance's image
#[derive(Debug, Subcommand)]
pub enum Metadata {
    /// Show it
    Show {
        /// Instance
        #[arg(add = complete::instances())]
        instance: String,
    },
    /// Edit it
    Edit {
        /// Instance
        #[arg(add = complete::instances())]
        instance: String,
    },
}

impl Config {
    pub async fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Device(device) => device.run_instance(context).await,
            Self::Edit { instance } => match given(instance.as_deref())? {
                Some(name) => object::edit::<Instance>(context, name).await,
                None => edit_server(context).await,
            },
            Self::Get { arguments, expanded } => match split(&arguments)? {
                (Some(name), [key]) if expanded => {
                    let instance = launch::find(context, name).await?;
                    output::print(&format!("{}\n", instance.expanded_config.get(key).map_or("", String::as_str)))
                }
                (Some(name), [key]) => object::get::<Instance>(context, name, key).await,
                (None, [key]) => get_server(context, key).await,
                _ => bail!("write [INSTANCE] KEY"),
            },
            Self::Set { arguments } => match split(&arguments)? {
                (Some(name), rest) => object::set::<Instance>(context, name, &pairs::assignments(rest)?).await,
                (None, rest) => {
                    let values = pairs::assignments(rest)?;
                    let values = values.into_iter().map(|(key, value)| (key, value.into())).collect();
                    set_server(context, &values).await
                }
            },
            Self::Show { instance, expanded } => match given(instance.as_deref())? {
                Some(name) => show(context, name, expanded).await,
                None => {
                    let server: Server = context.get(&Endpoint::new(&[])).await?;
                    output::print_yaml(&ServerPut { config: server.config })
                }
            },
            Self::Unset { arguments } => match split(&arguments)? {
                (Some(name), [key]) => object::unset::<Instance>(context, name, key).await,
                (None, [key]) => set_server(context, &[(key.clone(), Value::from(""))].into_iter().collect()).await,
                _ => bail!("write [INSTANCE] KEY"),
            },
            Self::Metadata(metadata) => metadata.run(context).await,
            Self::Trust(trust) => trust.run(context).await,
        }
    }
}

impl Metadata {
    async fn run(self, context: &Context) -> Result<()> {
        let (Self::Show { instance } | Self::Edit { instance }) = &self;
        let endpoint = target::instance(target::required(instance, "instance")?).join(&["metadata"]);
        let metadata: InstanceMetadata = context.get(&endpoint).await?;
        if matches!(self, Self::Show { .. }) {
            return output::print_yaml(&metadata);
        }
        let help = "The metadata of the instance's image. Lines that begin with # are left out.";
        editor::edit(&metadata, help, async |metadata: InstanceMetadata| {
            context.run(Method::PUT, &endpoint, Some(&metadata), "").await.map(|_| ())
        })
        .await
    }
}

/// A name that is there.
fn given(instance: Option<&str>) -> Result<Option<&str>> {
    Ok(instance.map(target::name).transpose()?.filter(|name| !name.is_empty()))
}

/// The instance, if one is named, and the rest. Names of instances have no dots and keys of the server have.
fn split(arguments: &[String]) -> Result<(Option<&str>, &[String])> {
    let Some((first, rest)) = arguments.split_first() else { bail!("write [INSTANCE] KEY") };
    if rest.is_empty() || first.contains(['=', '.']) {
        return Ok((None, arguments));
    }
    Ok((given(Some(first))?, rest))
}

async fn show(context: &Context, name: &str, expanded: bool) -> Result<()> {
    let (name, snapshot) = target::snapshot(name)?;
    if let Some(snapshot) = snapshot {
        let endpoint = target::instance(name).join(&["snapshots", snapshot]);
        let snapshot: InstanceSnapshot = context.get(&endpoint).await?;
        return output::print_yaml(&snapshot);
    }
    let mut instance = launch::find(context, name).await?;
    if expanded {
        instance.config = std::mem::take(&mut instance.expanded_config);
        instance.devices = std::mem::take(&mut instance.expanded_devices);
    }
    output::print_yaml(&InstancePut::from(instance))
}

async fn get_server(context: &Context, key: &str) -> Result<()> {
    let server: Server = context.get(&Endpoint::new(&[])).await?;
    let text = match server.config.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    output::print(&(text + "\n"))
}

async fn set_server(context: &Context, values: &serde_json::Map<String, Value>) -> Result<()> {
    let endpoint = Endpoint::new(&[]);
    let put = ServerPut { config: values.clone() };
    context.run(Method::PATCH, &endpoint, Some(&put), "").await.map(|_| ())
}

async fn edit_server(context: &Context) -> Result<()> {
    let endpoint = Endpoint::new(&[]);
    let (server, etag): (Server, _) = context.client.get_with_etag(&endpoint).await?;
    let etag = etag.filter(|_| crate::terminal::stdin_is_terminal());
    let help = "The configuration of the server. Lines that begin with # are left out.";
    editor::edit(&ServerPut { config: server.config }, help, async |put: ServerPut| {
        let answer = context.client.request(Method::PUT, &endpoint, Client::json(&put)?, etag.as_deref()).await?;
        context.finish(answer, "").await.map(|_| ())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_and_server_keys_are_told_apart() {
        let cases: [(&[&str], Option<&str>, usize); 7] = [
            (&["core.https_address"], None, 1),
            (&["core.https_address=:8443"], None, 1),
            (&["core.https_address", ":8443"], None, 2),
            (&["c1", "limits.cpu"], Some("c1"), 1),
            (&["c1", "limits.cpu=2"], Some("c1"), 1),
            (&["local:c1", "limits.cpu", "2"], Some("c1"), 2),
            (&["local:", "core.x=1"], None, 1),
        ];
        for (arguments, instance, rest) in cases {
            let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
            let (name, left) = split(&arguments).unwrap();
            assert_eq!((name, left.len()), (instance, rest), "{arguments:?}");
        }
    }
}
