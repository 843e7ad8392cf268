//! `berth storage`.

use std::fmt::Write as _;

use anyhow::Result;
use berth_api::{
    Endpoint,
    resources::ResourcesStoragePool,
    storage::{StoragePool as Object, StoragePoolsPost},
};
use clap::Subcommand;

use crate::{
    complete, object,
    output::{self, Format, Table, size},
    pairs, target,
    target::Context,
};

/// Work with storage pools
#[derive(Debug, Subcommand)]
pub enum Storage {
    /// Create a pool
    Create {
        /// Name
        name: String,
        /// Driver: dir, or btrfs (source=/dev/... or source=DIRECTORY; without either a file, with size=...)
        driver: String,
        /// KEY=VALUE
        values: Vec<String>,
        /// Description
        #[arg(long)]
        description: Option<String>,
    },
    /// Delete a pool
    #[command(alias = "rm")]
    Delete {
        /// Pool
        #[arg(add = complete::pools())]
        name: String,
    },
    /// Edit a pool
    Edit {
        /// Pool
        #[arg(add = complete::pools())]
        name: String,
    },
    /// Show a value
    Get {
        /// Pool
        #[arg(add = complete::pools())]
        name: String,
        /// Key
        key: String,
    },
    /// Show how full a pool is
    Info {
        /// Pool
        #[arg(add = complete::pools())]
        name: String,
        /// Sizes in bytes
        #[arg(long)]
        bytes: bool,
    },
    /// List pools
    #[command(alias = "ls")]
    List {
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
    },
    /// Set values: KEY=VALUE..., or KEY VALUE
    Set {
        /// Pool
        #[arg(add = complete::pools())]
        name: String,
        /// KEY=VALUE
        #[arg(required = true)]
        values: Vec<String>,
    },
    /// Show a pool
    Show {
        /// Pool
        #[arg(add = complete::pools())]
        name: String,
        /// Its resources instead
        #[arg(long)]
        resources: bool,
    },
    /// Remove a value
    Unset {
        /// Pool
        #[arg(add = complete::pools())]
        name: String,
        /// Key
        key: String,
    },
}

impl Storage {
    pub async fn run(self, context: &Context) -> Result<()> {
        let required = |name| target::required(name, "storage pool");
        match self {
            Self::Create { name, driver, values, description } => {
                let post = StoragePoolsPost {
                    config: pairs::map(&values)?,
                    description: description.unwrap_or_default(),
                    name: required(&name)?.to_owned(),
                    driver,
                };
                context.create(&Endpoint::new(&["storage-pools"]), &post).await?;
                output::print(&format!("Storage pool {} created\n", post.name))
            }
            Self::Delete { name } => {
                let name = required(&name)?;
                context.delete(&Endpoint::new(&["storage-pools", name]), "").await?;
                output::print(&format!("Storage pool {name} deleted\n"))
            }
            Self::Edit { name } => object::edit::<Object>(context, required(&name)?).await,
            Self::Get { name, key } => object::get::<Object>(context, required(&name)?, &key).await,
            Self::Set { name, values } => {
                object::set::<Object>(context, required(&name)?, &pairs::assignments(&values)?).await
            }
            Self::Unset { name, key } => object::unset::<Object>(context, required(&name)?, &key).await,
            Self::Show { name, resources: true } => output::print_yaml(&resources(context, required(&name)?).await?),
            Self::Show { name, resources: false } => object::show::<Object>(context, required(&name)?).await,
            Self::Info { name, bytes } => {
                let name = required(&name)?;
                let (pool, _) = object::read::<Object>(context, name).await?;
                output::print(&info(&pool, &resources(context, name).await?, bytes))
            }
            Self::List { format } => list(context, format).await,
        }
    }
}

async fn resources(context: &Context, name: &str) -> Result<ResourcesStoragePool> {
    context.get(&Endpoint::new(&["storage-pools", name, "resources"])).await
}

async fn list(context: &Context, format: Format) -> Result<()> {
    let pools: Vec<Object> = context.get(&Endpoint::new(&["storage-pools"]).query("recursion", "1")).await?;
    let mut table = Table::new(["NAME", "DRIVER", "SOURCE", "DESCRIPTION", "USED BY", "STATE"]);
    for pool in &pools {
        table.row([
            pool.name.clone(),
            pool.driver.clone(),
            pool.config.get("source").cloned().unwrap_or_default(),
            pool.description.clone(),
            pool.used_by.len().to_string(),
            pool.status.to_uppercase(),
        ]);
    }
    table.print(format, &pools)
}

fn info(pool: &Object, resources: &ResourcesStoragePool, bytes: bool) -> String {
    let amount = |count: u64| if bytes { count.to_string() } else { size(i64::try_from(count).unwrap_or(i64::MAX)) };
    let mut out = format!(
        "info:\n  name: {}\n  driver: {}\n  description: \"{}\"\n  space used: {}\n  total space: {}\n",
        pool.name,
        pool.driver,
        pool.description.replace('"', "\\\""),
        amount(resources.space.used),
        amount(resources.space.total)
    );
    if resources.inodes.total > 0 {
        let inodes = &resources.inodes;
        let _ = writeln!(out, "  inodes used: {}\n  total inodes: {}", inodes.used, inodes.total); // cannot fail
    }
    if !pool.used_by.is_empty() {
        out.push_str("used by:\n");
        for url in &pool.used_by {
            let _ = writeln!(out, "- {url}");
        }
    }
    out
}
