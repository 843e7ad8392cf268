//! `berth launch` and `berth init`.

use std::{fs::File, io::Read as _, os::fd::AsFd as _};

use anyhow::{Context as _, Result, bail};
use berth_api::{
    Endpoint,
    client::Method,
    images::ImageAliasesEntry,
    instances::{Instance, InstancePut, InstanceSource, InstanceType, InstancesPost},
    networks::Network,
    operations::Operation,
    profiles::Profile,
};
use clap::Args;

use super::{console, power};
use crate::{complete, output, pairs, target, target::Context};

/// Largest configuration read from standard input.
const MAX_STDIN: u64 = 4 << 20;

/// Create and start an instance from an image
#[derive(Debug, Args)]
pub struct Launch {
    #[command(flatten)]
    init: Init,
    /// Attach to the console at once
    #[arg(long)]
    console: bool,
    /// Wait until the guest is ready for `berth exec`
    #[arg(long)]
    wait: bool,
}

/// Create an instance from an image
#[derive(Debug, Args)]
#[command(after_help = "A YAML file on standard input (`< c1.yaml`) gives configuration and devices too.")]
pub struct Init {
    /// Image: alias or fingerprint; with --empty, the name
    #[arg(add = complete::images())]
    image: Option<String>,
    /// Name; one is made up without
    name: Option<String>,
    /// Configuration: KEY=VALUE
    #[arg(short, long = "config", value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Device: NAME,KEY=VALUE[,...]; overrides that of a profile
    #[arg(short, long = "device", value_name = "NAME,KEY=VALUE")]
    device: Vec<String>,
    /// Profile, more than once if need be
    #[arg(short, long = "profile", value_name = "PROFILE", add = complete::profiles())]
    profile: Vec<String>,
    /// No profiles at all
    #[arg(long, conflicts_with = "profile")]
    no_profiles: bool,
    /// Delete the instance when it stops
    #[arg(short, long)]
    ephemeral: bool,
    /// No image: an empty root
    #[arg(long)]
    empty: bool,
    /// Connect to this network
    #[arg(short, long, value_name = "NETWORK", add = complete::networks())]
    network: Option<String>,
    /// Storage pool of the root
    #[arg(short, long, value_name = "POOL", add = complete::pools())]
    storage: Option<String>,
    /// Size by a cloud's name: t2.micro, c2-m4
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    instance_type: Option<String>,
    /// A virtual machine, not a container
    #[arg(long)]
    vm: bool,
    /// Go on from a run of the image that was saved when it was ready; the first time makes that run
    #[arg(long, requires = "vm", conflicts_with = "empty")]
    warm: bool,
    /// Description
    #[arg(long)]
    description: Option<String>,
}

impl Launch {
    pub async fn run(self, context: &Context) -> Result<()> {
        let warm = self.init.warm;
        let name = self.init.run(context).await?;
        say(context, &format!("Starting {name}"))?;
        let started = if warm {
            power::go_on(context, &name, self.wait).await
        } else {
            power::start(context, &name, self.wait).await
        };
        started
            .with_context(|| format!("`{name}` was created but did not start (see `berth info {name} --show-log`)"))?;
        if self.console { console::attach(context, &name, false).await } else { Ok(()) }
    }
}

impl Init {
    /// Creates the instance and returns its name.
    pub async fn run(self, context: &Context) -> Result<String> {
        let (post, title) = self.request(context).await?;
        say(context, &title)?;
        let endpoint = Endpoint::new(&["instances"]);
        let operation = context.run(Method::POST, &endpoint, Some(&post), "Creating the instance").await?;
        let name = match operation.as_ref().and_then(created) {
            Some(name) => name,
            None if post.name.is_empty() => bail!("the daemon did not tell the name of the new instance"),
            None => post.name.clone(),
        };
        if post.name.is_empty() {
            say(context, &format!("Instance name is: {name}"))?;
        }
        Ok(name)
    }

    async fn request(mut self, context: &Context) -> Result<(InstancesPost, String)> {
        if self.empty && self.name.is_none() {
            self.name = self.image.take();
        }
        let name = self.name.as_deref().map(target::name).transpose()?.unwrap_or_default().to_owned();
        let source = self.source(context).await?;
        let given: InstancePut = stdin_config()?;
        let mut post = InstancesPost {
            config: given.config,
            devices: given.devices,
            ephemeral: self.ephemeral || given.ephemeral,
            description: self.description.clone().unwrap_or(given.description),
            profiles: self.profiles().or((!given.profiles.is_empty()).then_some(given.profiles)),
            name,
            source,
            instance_type: self.instance_type.clone().unwrap_or_default(),
            kind: if self.vm { InstanceType::VirtualMachine } else { InstanceType::Container },
            ..InstancesPost::default()
        };
        post.config.extend(pairs::map(&self.config)?);
        self.devices(context, &mut post).await?;
        let title =
            if post.name.is_empty() { "Creating the instance".into() } else { format!("Creating {}", post.name) };
        Ok((post, title))
    }

    fn profiles(&self) -> Option<Vec<String>> {
        if self.no_profiles {
            return Some(Vec::new());
        }
        (!self.profile.is_empty()).then(|| self.profile.clone())
    }

    async fn source(&self, context: &Context) -> Result<InstanceSource> {
        if self.empty {
            if self.image.is_some() {
                bail!("--empty takes no image");
            }
            return Ok(InstanceSource { kind: "none".into(), ..InstanceSource::default() });
        }
        let Some(image) = &self.image else {
            bail!("which image? `berth image list` shows what is there, `berth image build debian/12` makes one");
        };
        let image = target::required(image, "image")?;
        let fingerprint = fingerprint(context, image).await?;
        Ok(InstanceSource { kind: "image".into(), fingerprint, warm: self.warm, ..InstanceSource::default() })
    }

    /// Adds the devices of --device, --network and --storage.
    async fn devices(&self, context: &Context, post: &mut InstancesPost) -> Result<()> {
        if let Some(network) = &self.network {
            let mut nic = [("type", "nic"), ("name", "eth0")].map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec();
            let managed: Network = context.get(&Endpoint::new(&["networks", network])).await?;
            match managed {
                Network { managed: true, .. } => nic.push(("network".into(), network.clone())),
                Network { kind, .. } => {
                    let nictype = if kind == "bridge" { "bridged" } else { "macvlan" };
                    nic.extend([("nictype".into(), nictype.into()), ("parent".into(), network.clone())]);
                }
            }
            post.devices.insert("eth0".into(), nic.into_iter().collect());
        }
        if let Some(pool) = &self.storage {
            let root = [("type", "disk"), ("path", "/"), ("pool", pool)];
            post.devices.insert("root".into(), root.map(|(k, v)| (k.into(), v.into())).into());
        }
        for text in &self.device {
            let (name, options) = pairs::device(text)?;
            if !options.contains_key("type") && !post.devices.contains_key(&name) {
                let inherited = profile_device(context, post.profiles.as_deref(), &name).await?;
                post.devices.insert(name.clone(), inherited);
            }
            post.devices.entry(name).or_default().extend(options);
        }
        Ok(())
    }
}

/// Tells what is done, as `lxc` does, on standard output.
pub fn say(context: &Context, text: &str) -> Result<()> {
    if context.quiet { Ok(()) } else { output::print(&format!("{text}\n")) }
}

/// The fingerprint of an alias; anything else is taken for a fingerprint.
pub async fn fingerprint(context: &Context, image: &str) -> Result<String> {
    match context.client.get::<ImageAliasesEntry>(&Endpoint::new(&["images", "aliases", image])).await {
        Ok(alias) => Ok(alias.target),
        Err(error) if error.is_not_found() && is_fingerprint(image) => Ok(image.to_owned()),
        Err(error) if error.is_not_found() => bail!(
            "there is no image `{image}`. `berth image list` shows what is there; `berth image build debian/12 --alias \
             debian/12` makes one"
        ),
        Err(error) => Err(error.into()),
    }
}

fn is_fingerprint(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Name of the instance that an operation made.
pub fn created(operation: &Operation) -> Option<String> {
    let url = operation.resources.get("instances").or_else(|| operation.resources.get("containers"))?.first()?;
    Some(berth_api::client::unquoted(url.split('?').next()?.rsplit('/').next()?))
}

/// A device as the last profile that has it gives it.
async fn profile_device(context: &Context, profiles: Option<&[String]>, name: &str) -> Result<berth_api::Config> {
    let default = [String::from("default")];
    for profile in profiles.unwrap_or(&default).iter().rev() {
        let profile: Profile = context.get(&Endpoint::new(&["profiles", profile])).await?;
        if let Some(device) = profile.devices.get(name) {
            return Ok(device.clone());
        }
    }
    bail!("no profile has a device `{name}`: a new device needs a type, as in `--device {name},type=disk,...`")
}

/// Configuration from standard input, but only from a file: a pipe may be somebody else's and never end.
fn stdin_config() -> Result<InstancePut> {
    let stdin = std::io::stdin();
    let file = File::from(stdin.as_fd().try_clone_to_owned().context("cannot read standard input")?);
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(InstancePut::default());
    }
    let mut text = String::new();
    file.take(MAX_STDIN).read_to_string(&mut text).context("cannot read the configuration on standard input")?;
    if text.trim().is_empty() {
        return Ok(InstancePut::default());
    }
    output::from_yaml(&text).context("the configuration on standard input")
}

/// An instance, with a next step if there is none.
pub async fn find(context: &Context, name: &str) -> Result<Instance> {
    context.client.get(&target::instance(name)).await.map_err(|error| missing(error, name))
}

/// Adds a next step to "not found".
pub fn missing(error: berth_api::Error, name: &str) -> anyhow::Error {
    if error.is_not_found() {
        anyhow::anyhow!("{error}: `{name}`. `berth list` shows the instances of this project")
    } else {
        error.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints() {
        assert!(is_fingerprint("37ffab") && is_fingerprint(&"a".repeat(64)));
        assert!(!is_fingerprint("debian/12") && !is_fingerprint("") && !is_fingerprint(&"a".repeat(65)));
    }

    #[test]
    fn new_names_are_found() {
        let operation: Operation =
            serde_json::from_str(r#"{"resources":{"instances":["/1.0/instances/happy-cat?project=p"]}}"#).unwrap();
        assert_eq!(created(&operation).as_deref(), Some("happy-cat"));
    }
}
