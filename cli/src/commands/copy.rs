//! `berth copy` and `berth move`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use berth_api::{
    Endpoint,
    client::Method,
    instances::{Instance, InstancePost, InstanceSnapshotPost, InstanceSource, InstancesPost},
};
use clap::Args;

use super::launch;
use crate::{complete, pairs, target, target::Context};

/// Copy an instance, with its snapshots, or a snapshot
#[derive(Debug, Args)]
pub struct Copy {
    /// Instance, or INSTANCE/SNAPSHOT
    #[arg(add = complete::instances())]
    source: String,
    /// Name of the copy; one is made up without
    name: Option<String>,
    /// Configuration: KEY=VALUE
    #[arg(short, long = "config", value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Device: NAME,KEY=VALUE[,...]
    #[arg(short, long = "device", value_name = "NAME,KEY=VALUE")]
    device: Vec<String>,
    /// Profile in place of those of the source, more than once if need be
    #[arg(short, long = "profile", value_name = "PROFILE", add = complete::profiles())]
    profile: Vec<String>,
    /// No profiles at all
    #[arg(long, conflicts_with = "profile")]
    no_profiles: bool,
    /// Delete the copy when it stops
    #[arg(short, long)]
    ephemeral: bool,
    /// Leave the snapshots out
    #[arg(long)]
    instance_only: bool,
    /// Bring an existing copy up to date
    #[arg(long)]
    refresh: bool,
    /// Storage pool of the copy
    #[arg(short, long, value_name = "POOL", add = complete::pools())]
    storage: Option<String>,
    /// Project of the copy
    #[arg(long, value_name = "PROJECT", add = complete::projects())]
    target_project: Option<String>,
    /// Accepted for LXD's scripts: the run state is never copied
    #[arg(long, hide = true)]
    stateless: bool,
    /// Accepted for LXD's scripts: there is one way to copy on one server
    #[arg(long, hide = true)]
    mode: Option<String>,
    /// Accepted for LXD's scripts: what runs is paused for the copy
    #[arg(long, hide = true)]
    allow_inconsistent: bool,
}

/// Rename an instance that does not run, or move it to another pool or project; rename a snapshot
#[derive(Debug, Args)]
pub struct Move {
    /// Instance, or INSTANCE/SNAPSHOT
    #[arg(add = complete::instances())]
    source: String,
    /// New name; of a snapshot as INSTANCE/SNAPSHOT
    name: Option<String>,
    /// New storage pool
    #[arg(short, long, value_name = "POOL", add = complete::pools())]
    storage: Option<String>,
    /// New project
    #[arg(long, value_name = "PROJECT", add = complete::projects())]
    target_project: Option<String>,
    /// Delete the snapshots instead of moving them
    #[arg(long)]
    instance_only: bool,
    /// Accepted for LXD's scripts: the run state is never moved
    #[arg(long, hide = true)]
    stateless: bool,
    /// Accepted for LXD's scripts: there is one way to move on one server
    #[arg(long, hide = true)]
    mode: Option<String>,
}

impl Copy {
    pub async fn run(self, context: &Context) -> Result<()> {
        let (source, _) = target::snapshot(&self.source)?;
        let instance: Instance = launch::find(context, source).await?;
        let name = self.name.as_deref().map(target::name).transpose()?.unwrap_or_default();
        if name.is_empty() && self.refresh {
            bail!("the name of the copy is missing: write `berth copy {source} NAME --refresh`");
        }
        let mut devices = self.device.iter().map(|text| pairs::device(text)).collect::<Result<BTreeMap<_, _>>>()?;
        if let Some(pool) = &self.storage {
            let (device, mut root) = root_disk(&instance)?;
            root.extend(devices.remove(&device).unwrap_or_default());
            root.insert("pool".to_owned(), pool.clone());
            devices.insert(device, root);
        }
        let profiles = match self.profile.is_empty() {
            true => self.no_profiles.then(Vec::new),
            false => Some(self.profile.clone()),
        };
        let post = InstancesPost {
            name: name.to_owned(),
            kind: instance.kind,
            architecture: instance.architecture.clone(),
            config: pairs::map(&self.config)?,
            devices,
            profiles,
            ephemeral: self.ephemeral,
            source: InstanceSource {
                kind: "copy".to_owned(),
                source: target::name(&self.source)?.to_owned(),
                project: instance.project,
                instance_only: self.instance_only,
                refresh: self.refresh,
                ..InstanceSource::default()
            },
            ..InstancesPost::default()
        };
        let there = Context {
            client: match &self.target_project {
                Some(project) => context.client.with_project(Some(project)),
                None => context.client.clone(),
            },
            quiet: context.quiet,
        };
        let title = format!("Copying {}", self.source);
        let operation = there.run(Method::POST, &Endpoint::new(&["instances"]), Some(&post), &title).await?;
        if name.is_empty()
            && let Some(name) = operation.as_ref().and_then(launch::created)
        {
            launch::say(context, &format!("Instance name is: {name}"))?;
        }
        Ok(())
    }
}

/// The root disk of an instance.
fn root_disk(instance: &Instance) -> Result<(String, BTreeMap<String, String>)> {
    let is = |device: &BTreeMap<String, String>, key: &str, value: &str| device.get(key).is_some_and(|v| v == value);
    let root = instance.expanded_devices.iter().find(|(_, d)| is(d, "type", "disk") && is(d, "path", "/"));
    match root {
        Some((name, device)) => Ok((name.clone(), device.clone())),
        None => bail!("the instance `{}` has no root disk", instance.name),
    }
}

impl Move {
    pub async fn run(self, context: &Context) -> Result<()> {
        let (source, snapshot) = target::snapshot(&self.source)?;
        let name = self.name.as_deref().map(target::name).transpose()?.unwrap_or_default();
        if let Some(snapshot) = snapshot {
            let new = target::snapshot(name)?;
            return rename_snapshot(context, source, snapshot, new).await;
        }
        if name.is_empty() && self.storage.is_none() && self.target_project.is_none() {
            bail!("nothing to do: write `berth move {source} NEW-NAME`, or use --storage or --target-project");
        }
        let post = InstancePost {
            name: if name.is_empty() { source } else { name }.to_owned(),
            migration: self.storage.is_some() || self.target_project.is_some(),
            pool: self.storage.unwrap_or_default(),
            project: self.target_project.unwrap_or_default(),
            instance_only: self.instance_only,
            ..InstancePost::default()
        };
        let title = format!("Moving {source}");
        context.run(Method::POST, &target::instance(source), Some(&post), &title).await.map(|_| ())
    }
}

/// Gives a snapshot another name; the new one may be given with its instance or without.
pub async fn rename_snapshot(
    context: &Context,
    instance: &str,
    snapshot: &str,
    (new_instance, new_snapshot): (&str, Option<&str>),
) -> Result<()> {
    let new_name = match new_snapshot {
        Some(name) if new_instance == instance => name,
        None => new_instance,
        Some(_) => {
            bail!("a snapshot stays with its instance: write `berth rename {instance}/{snapshot} {instance}/NEW`")
        }
    };
    let post = InstanceSnapshotPost { name: new_name.to_owned(), ..InstanceSnapshotPost::default() };
    let endpoint = target::instance(instance).join(&["snapshots", snapshot]);
    let title = format!("Renaming {instance}/{snapshot}");
    context.run(Method::POST, &endpoint, Some(&post), &title).await.map(|_| ())
}
