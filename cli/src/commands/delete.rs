//! `berth delete` and `berth rename`.

use anyhow::{Result, bail};
use berth_api::{
    StatusCode,
    client::Method,
    instances::{InstancePost, InstanceStatePut},
};
use clap::Args;

use super::{copy, launch, power};
use crate::{complete, target, target::Context};

/// Delete instances and snapshots
#[derive(Debug, Args)]
pub struct Delete {
    /// Instances, or INSTANCE/SNAPSHOT
    #[arg(required = true, add = complete::instances())]
    names: Vec<String>,
    /// Stop running instances first
    #[arg(short, long)]
    force: bool,
    /// Ask before each
    #[arg(short, long)]
    interactive: bool,
}

/// Rename an instance that does not run, or a snapshot
#[derive(Debug, Args)]
pub struct Rename {
    /// Instance, or INSTANCE/SNAPSHOT
    #[arg(add = complete::instances())]
    name: String,
    /// New name
    new_name: String,
}

impl Delete {
    pub async fn run(self, context: &Context) -> Result<()> {
        let mut failed = 0;
        for text in &self.names {
            match self.delete(context, text).await {
                Ok(()) => {}
                Err(error) if self.names.len() == 1 => return Err(error),
                Err(error) => {
                    eprintln!("{text}: {error:#}");
                    failed += 1;
                }
            }
        }
        if failed > 0 {
            bail!("{failed} of {} were not deleted", self.names.len());
        }
        Ok(())
    }

    async fn delete(&self, context: &Context, text: &str) -> Result<()> {
        let (name, snapshot) = target::snapshot(text)?;
        if self.interactive && !confirm(text)? {
            return Ok(());
        }
        if let Some(snapshot) = snapshot {
            let endpoint = target::instance(name).join(&["snapshots", snapshot]);
            return context.delete(&endpoint, &format!("Deleting {text}")).await;
        }
        let instance = launch::find(context, name).await?;
        if !matches!(instance.status_code, StatusCode::STOPPED | StatusCode::ERROR) {
            if !self.force {
                bail!(
                    "the instance `{name}` is {}: stop it first, or delete it with --force",
                    instance.status.to_lowercase()
                );
            }
            let change =
                InstanceStatePut { action: "stop".into(), force: true, timeout: -1, ..InstanceStatePut::default() };
            power::apply(context, name, &change, "Stopping").await?;
            if instance.ephemeral {
                return Ok(()); // its end was its deletion
            }
        }
        context.delete(&target::instance(name), &format!("Deleting {name}")).await
    }
}

fn confirm(name: &str) -> Result<bool> {
    eprint!("Delete {name} (yes/no)? ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

impl Rename {
    pub async fn run(self, context: &Context) -> Result<()> {
        let name = match target::snapshot(&self.name)? {
            (name, None) => name,
            (instance, Some(snapshot)) => {
                return copy::rename_snapshot(context, instance, snapshot, target::snapshot(&self.new_name)?).await;
            }
        };
        let post =
            InstancePost { name: target::required(&self.new_name, "instance")?.to_owned(), ..InstancePost::default() };
        let title = format!("Renaming {name}");
        context.run(Method::POST, &target::instance(name), Some(&post), &title).await.map(|_| ())
    }
}
