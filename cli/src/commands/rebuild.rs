//! `berth rebuild`.

use anyhow::{Result, bail};
use berth_api::{
    StatusCode,
    client::Method,
    instances::{Instance, InstanceRebuildPost, InstanceSource, InstanceStatePut},
};
use clap::Args;

use super::{launch, power};
use crate::{complete, target, target::Context};

/// Make an instance anew of an image; its configuration, devices and snapshots stay
#[derive(Debug, Args)]
pub struct Rebuild {
    /// Image, or the instance if it is to be empty
    #[arg(add = complete::images())]
    image: String,
    /// Instance
    #[arg(add = complete::instances(), required_unless_present = "empty")]
    instance: Option<String>,
    /// Leave it empty
    #[arg(long, conflicts_with = "instance")]
    empty: bool,
    /// Stop a running instance, and start it again afterwards
    #[arg(short, long)]
    force: bool,
}

impl Rebuild {
    pub async fn run(self, context: &Context) -> Result<()> {
        let text = self.instance.as_deref().unwrap_or(&self.image);
        let name = target::required(text, "instance")?;
        let instance: Instance = launch::find(context, name).await?;
        let source = match self.empty {
            true => InstanceSource { kind: "none".into(), ..InstanceSource::default() },
            false => {
                let image = target::required(&self.image, "image")?;
                let fingerprint = launch::fingerprint(context, image).await?;
                InstanceSource { kind: "image".into(), fingerprint, ..InstanceSource::default() }
            }
        };
        let running = instance.status_code != StatusCode::STOPPED;
        if running {
            if !self.force {
                bail!("the instance `{name}` is running: stop it first, or use --force");
            }
            if instance.ephemeral {
                bail!("the instance `{name}` is deleted when it stops: launch a new one");
            }
            let stop =
                InstanceStatePut { action: "stop".into(), timeout: -1, force: true, ..InstanceStatePut::default() };
            power::apply(context, name, &stop, "Stopping").await?;
        }
        let post = InstanceRebuildPost { source };
        let endpoint = target::instance(name).join(&["rebuild"]);
        context.run(Method::POST, &endpoint, Some(&post), &format!("Rebuilding {name}")).await?;
        if running { power::start(context, name, false).await } else { Ok(()) }
    }
}
