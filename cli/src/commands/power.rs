//! `berth start`, `stop`, `restart` and `pause`.

use anyhow::{Result, bail};
use berth_api::{
    Endpoint, StatusCode,
    client::Method,
    instances::{Instance, InstanceStatePut},
};
use clap::Args;
use futures::future::join_all;

use super::{console, launch::missing};
use crate::{complete, target, target::Context};

/// Which instances.
#[derive(Debug, Args)]
struct Names {
    /// Instances
    #[arg(required_unless_present = "all", add = complete::instances())]
    names: Vec<String>,
    /// All instances of the project
    #[arg(long, conflicts_with = "names")]
    all: bool,
}

/// Start instances
#[derive(Debug, Args)]
pub struct Start {
    #[command(flatten)]
    names: Names,
    /// Attach to the console at once
    #[arg(long)]
    console: bool,
    /// Forget a saved run state
    #[arg(long)]
    stateless: bool,
    /// Wait until the guest is ready for `berth exec`
    #[arg(long)]
    wait: bool,
}

/// Stop instances
#[derive(Debug, Args)]
pub struct Stop {
    #[command(flatten)]
    names: Names,
    /// Do not ask the guest: pull the plug
    #[arg(short, long)]
    force: bool,
    /// Seconds to wait for a clean stop; -1 for ever
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, value_name = "SECONDS")]
    timeout: i64,
    /// Save the run state
    #[arg(long)]
    stateful: bool,
    /// Attach to the console while it stops
    #[arg(long)]
    console: bool,
}

/// Restart instances
#[derive(Debug, Args)]
pub struct Restart {
    #[command(flatten)]
    names: Names,
    /// Do not ask the guest: pull the plug
    #[arg(short, long)]
    force: bool,
    /// Seconds to wait for a clean stop; -1 for ever
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, value_name = "SECONDS")]
    timeout: i64,
    /// Attach to the console at once
    #[arg(long)]
    console: bool,
    /// Wait until the guest is ready for `berth exec`
    #[arg(long)]
    wait: bool,
}

/// Freeze instances; `berth start` thaws them
#[derive(Debug, Args)]
pub struct Pause {
    #[command(flatten)]
    names: Names,
}

impl Start {
    pub async fn run(self, context: &Context) -> Result<()> {
        let names = self.names.resolve(context, |instance| instance.status_code != StatusCode::RUNNING).await?;
        let change = InstanceStatePut {
            action: "start".into(),
            stateful: !self.stateless,
            wait: self.wait,
            ..InstanceStatePut::default()
        };
        each(&names, "Starting", async |name| apply_start(context, name, &change).await).await?;
        follow(context, &names, self.console).await
    }
}

impl Stop {
    pub async fn run(self, context: &Context) -> Result<()> {
        let names = self.names.resolve(context, |instance| instance.status_code != StatusCode::STOPPED).await?;
        let change = InstanceStatePut {
            action: "stop".into(),
            timeout: self.timeout,
            force: self.force,
            stateful: self.stateful,
            ..InstanceStatePut::default()
        };
        if self.console {
            let [name] = one(&names)?;
            let (stopped, shown) =
                tokio::join!(apply(context, name, &change, "Stopping"), console::attach(context, name, false));
            return stopped.and(shown);
        }
        each(&names, "Stopping", async |name| apply(context, name, &change, "Stopping").await).await
    }
}

impl Restart {
    pub async fn run(self, context: &Context) -> Result<()> {
        let names = self.names.resolve(context, |instance| instance.status_code == StatusCode::RUNNING).await?;
        let change = InstanceStatePut {
            action: "restart".into(),
            timeout: self.timeout,
            force: self.force,
            wait: self.wait,
            ..InstanceStatePut::default()
        };
        each(&names, "Restarting", async |name| apply(context, name, &change, "Restarting").await).await?;
        follow(context, &names, self.console).await
    }
}

impl Pause {
    pub async fn run(self, context: &Context) -> Result<()> {
        let names = self.names.resolve(context, |instance| instance.status_code == StatusCode::RUNNING).await?;
        let change = InstanceStatePut { action: "freeze".into(), ..InstanceStatePut::default() };
        each(&names, "Pausing", async |name| apply(context, name, &change, "Pausing").await).await
    }
}

impl Names {
    /// The names; with --all those of the instances for which it makes sense.
    async fn resolve(&self, context: &Context, sensible: impl Fn(&Instance) -> bool) -> Result<Vec<String>> {
        if !self.all {
            return self.names.iter().map(|name| Ok(target::required(name, "instance")?.to_owned())).collect();
        }
        let instances: Vec<Instance> = context.get(&Endpoint::new(&["instances"]).query("recursion", "1")).await?;
        Ok(instances.into_iter().filter(sensible).map(|instance| instance.name).collect())
    }
}

/// Boots one instance.
pub async fn start(context: &Context, name: &str, wait: bool) -> Result<()> {
    let change = InstanceStatePut { action: "start".into(), wait, ..InstanceStatePut::default() };
    apply(context, name, &change, "Starting").await
}

/// Lets one instance go on from the run state it has.
pub async fn go_on(context: &Context, name: &str, wait: bool) -> Result<()> {
    let change = InstanceStatePut { action: "start".into(), wait, stateful: true, ..InstanceStatePut::default() };
    apply(context, name, &change, "Starting").await
}

/// Starts an instance, or thaws it if it is frozen.
async fn apply_start(context: &Context, name: &str, change: &InstanceStatePut) -> Result<()> {
    let instance = super::launch::find(context, name).await?;
    let mut change = change.clone();
    if instance.status_code == StatusCode::FROZEN {
        change.action = "unfreeze".into();
    }
    // A saved run state is used unless the user does not want it.
    change.stateful = instance.stateful && change.stateful;
    apply(context, name, &change, "Starting").await
}

/// Changes the state of one instance.
pub async fn apply(context: &Context, name: &str, change: &InstanceStatePut, title: &str) -> Result<()> {
    let endpoint = target::instance(name).join(&["state"]);
    let done = context.run(Method::PUT, &endpoint, Some(change), &format!("{title} {name}")).await;
    match done {
        Ok(_) => Ok(()),
        Err(error) => match error.downcast::<berth_api::Error>() {
            Ok(error) => Err(missing(error, name)),
            Err(error) => Err(error),
        },
    }
}

/// Does an action to all instances at once and tells all failures.
async fn each<F>(names: &[String], title: &str, action: F) -> Result<()>
where
    F: AsyncFn(&str) -> Result<()>,
{
    let results = join_all(names.iter().map(|name| action(name))).await;
    let mut failed: Vec<(&String, anyhow::Error)> =
        names.iter().zip(results).filter_map(|(name, result)| Some((name, result.err()?))).collect();
    match failed.len() {
        0 => Ok(()),
        1 if names.len() == 1 => Err(failed.remove(0).1),
        count => {
            for (name, error) in failed {
                eprintln!("{name}: {error:#}");
            }
            bail!("{title} failed for {count} of {} instances", names.len())
        }
    }
}

async fn follow(context: &Context, names: &[String], console: bool) -> Result<()> {
    if console {
        let [name] = one(names)?;
        console::attach(context, name, false).await?;
    }
    Ok(())
}

fn one(names: &[String]) -> Result<[&String; 1]> {
    match names {
        [name] => Ok([name]),
        _ => bail!("--console works with one instance"),
    }
}
