//! `berth snapshot` and `berth restore`.

use anyhow::{Result, bail};
use berth_api::{
    Time,
    client::Method,
    instances::{Instance, InstancePut, InstanceSnapshotsPost},
};
use clap::Args;

use super::launch;
use crate::{complete, target, target::Context};

/// Take a snapshot of an instance
#[derive(Debug, Args)]
pub struct Snapshot {
    /// Instance
    #[arg(add = complete::instances())]
    instance: String,
    /// Name of the snapshot; without, by the instance's `snapshots.pattern`
    name: Option<String>,
    /// Keep it for ever, whatever `snapshots.expiry` says
    #[arg(long)]
    no_expiry: bool,
    /// Replace a snapshot of that name
    #[arg(long, requires = "name")]
    reuse: bool,
    /// Save the run state too
    #[arg(long)]
    stateful: bool,
}

/// Make an instance what it was at a snapshot
#[derive(Debug, Args)]
pub struct Restore {
    /// Instance
    #[arg(add = complete::instances())]
    instance: String,
    /// Snapshot
    snapshot: String,
    /// Restore the run state too
    #[arg(long)]
    stateful: bool,
}

impl Snapshot {
    pub async fn run(self, context: &Context) -> Result<()> {
        let instance = target::required(&self.instance, "instance")?;
        let name = self.name.as_deref().unwrap_or_default();
        if name.contains('/') {
            bail!("the name of a snapshot has no `/`: write `berth snapshot {instance} NAME`");
        }
        let snapshots = target::instance(instance).join(&["snapshots"]);
        let old = snapshots.clone().join(&[name]);
        if self.reuse && context.get::<serde_json::Value>(&old).await.is_ok() {
            context.delete(&old, &format!("Deleting the old {instance}/{name}")).await?;
        }
        let post = InstanceSnapshotsPost {
            name: name.to_owned(),
            stateful: self.stateful,
            expires_at: self.no_expiry.then_some(Time::ZERO),
        };
        let title = format!("Taking a snapshot of {instance}");
        context.run(Method::POST, &snapshots, Some(&post), &title).await.map(|_| ())
    }
}

impl Restore {
    pub async fn run(self, context: &Context) -> Result<()> {
        let instance = target::required(&self.instance, "instance")?;
        let current: Instance = launch::find(context, instance).await?;
        let put = InstancePut { restore: self.snapshot.clone(), stateful: self.stateful, ..InstancePut::from(current) };
        let title = format!("Restoring {instance} from {}", self.snapshot);
        context.run(Method::PUT, &target::instance(instance), Some(&put), &title).await.map(|_| ())
    }
}
