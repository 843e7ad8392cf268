//! `berth image warm`.

use anyhow::Result;
use berth_api::{
    Endpoint,
    client::Method,
    images::{ImageWarm, ImageWarmPost},
};
use clap::Args;

use crate::{
    complete,
    output::{Format, Table, date, size},
    pairs,
    target::Context,
};

/// Boot an image once and save it, so that `berth launch --warm` goes on from there
#[derive(Debug, Args)]
pub struct Warm {
    /// Image
    #[arg(add = complete::images())]
    pub image: String,
    /// Configuration of the machines to be: KEY=VALUE
    #[arg(short, long = "config", value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Profile of the machines to be, more than once if need be
    #[arg(short, long = "profile", value_name = "PROFILE", add = complete::profiles())]
    profile: Vec<String>,
    /// Storage pool of the machines to be
    #[arg(short, long, value_name = "POOL", add = complete::pools())]
    storage: Option<String>,
    /// List what there is of the image instead
    #[arg(long, conflicts_with_all = ["config", "profile", "storage", "remove"])]
    list: bool,
    /// Remove what there is of the image instead; machines made from it stay
    #[arg(long, conflicts_with_all = ["config", "profile", "storage"])]
    remove: bool,
    /// Format of --list
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    format: Format,
}

impl Warm {
    /// `image` is the endpoint of the image.
    pub async fn run(self, context: &Context, image: &Endpoint) -> Result<()> {
        let endpoint = image.clone().join(&["warm"]);
        if self.remove {
            return context.delete(&endpoint, "").await;
        }
        if self.list {
            return list(&context.get::<Vec<ImageWarm>>(&endpoint).await?, self.format);
        }
        let mut post = ImageWarmPost {
            config: pairs::map(&self.config)?,
            profiles: (!self.profile.is_empty()).then_some(self.profile),
            ..ImageWarmPost::default()
        };
        if let Some(pool) = &self.storage {
            let root = [("type", "disk"), ("path", "/"), ("pool", pool)];
            post.devices.insert("root".into(), root.map(|(k, v)| (k.into(), v.into())).into());
        }
        let title = format!("Warming {}", self.image);
        context.run(Method::POST, &endpoint, Some(&post), &title).await.map(drop)
    }
}

fn list(found: &Vec<ImageWarm>, format: Format) -> Result<()> {
    let mut table = Table::new(["CPUS", "MEMORY", "DISK", "NICS", "POOL", "SAVED AT"]);
    for warm in found {
        table.row([
            warm.cpus.to_string(),
            size(warm.memory.cast_signed()),
            size(warm.disk.cast_signed()),
            warm.nics.to_string(),
            warm.pool.clone(),
            date(warm.created_at),
        ]);
    }
    table.print(format, found)
}
