//! `berth publish`.

use anyhow::{Result, bail};
use berth_api::{
    Endpoint, StatusCode,
    client::Method,
    images::{ImageAlias, ImagesPost, ImagesPostSource},
    instances::{Instance, InstanceStatePut},
};
use clap::Args;

use super::{launch, power};
use crate::{complete, pairs, target, target::Context};

/// Make an image of an instance that does not run, or of a snapshot
#[derive(Debug, Args)]
pub struct Publish {
    /// Instance, or INSTANCE/SNAPSHOT
    #[arg(add = complete::instances())]
    source: String,
    /// Properties of the image: KEY=VALUE
    #[arg(value_name = "KEY=VALUE")]
    properties: Vec<String>,
    /// Name for the image, more than once if need be
    #[arg(long, value_name = "ALIAS")]
    alias: Vec<String>,
    /// Let everybody download it
    #[arg(long)]
    public: bool,
    /// Stop a running instance, and start it again afterwards
    #[arg(short, long)]
    force: bool,
    /// Compression: none, gzip, zstd or xz
    #[arg(long, value_name = "NAME")]
    compression: Option<String>,
}

impl Publish {
    pub async fn run(self, context: &Context) -> Result<()> {
        let (name, snapshot) = target::snapshot(&self.source)?;
        let instance: Instance = launch::find(context, name).await?;
        let running = snapshot.is_none() && instance.status_code != StatusCode::STOPPED;
        if running {
            if !self.force {
                bail!("the instance `{name}` is running: stop it first, publish a snapshot of it, or use --force");
            }
            if instance.ephemeral {
                bail!("the instance `{name}` is deleted when it stops: publish a snapshot of it");
            }
            let stop = InstanceStatePut { action: "stop".into(), timeout: -1, ..InstanceStatePut::default() };
            power::apply(context, name, &stop, "Stopping").await?;
        }
        let published = self.publish(context, snapshot.is_some()).await;
        if running {
            power::start(context, name, false).await?;
        }
        launch::say(context, &format!("Instance published with fingerprint: {}", published?))
    }

    async fn publish(&self, context: &Context, snapshot: bool) -> Result<String> {
        let alias = |name: &String| ImageAlias { name: name.clone(), description: String::new() };
        let post = ImagesPost {
            properties: pairs::map(&self.properties)?,
            public: self.public,
            compression_algorithm: self.compression.clone().unwrap_or_default(),
            aliases: self.alias.iter().map(alias).collect(),
            source: Some(ImagesPostSource {
                kind: if snapshot { "snapshot" } else { "instance" }.to_owned(),
                name: target::name(&self.source)?.to_owned(),
                ..ImagesPostSource::default()
            }),
            ..ImagesPost::default()
        };
        let title = format!("Publishing {}", self.source);
        let operation = context.run(Method::POST, &Endpoint::new(&["images"]), Some(&post), &title).await?;
        let metadata = operation.and_then(|operation| operation.metadata).unwrap_or_default();
        match metadata.get("fingerprint").and_then(|fingerprint| fingerprint.as_str()) {
            Some(fingerprint) => Ok(fingerprint.to_owned()),
            None => bail!("the daemon did not tell the fingerprint of the new image"),
        }
    }
}
