//! `berth profile`.

use anyhow::{Result, bail};
use berth_api::{
    Endpoint,
    client::Method,
    instances::Instance,
    profiles::{Profile as Object, ProfilePost, ProfilesPost},
};
use clap::Subcommand;

use super::device::Device;
use crate::{
    complete, object,
    output::{Format, Table},
    pairs, target,
    target::Context,
};

/// Work with profiles
#[derive(Debug, Subcommand)]
pub enum Profile {
    /// Add a profile to an instance
    Add {
        /// Instance
        #[arg(add = complete::instances())]
        instance: String,
        /// Profile
        #[arg(add = complete::profiles())]
        profile: String,
    },
    /// Give an instance exactly these profiles
    #[command(alias = "apply")]
    Assign {
        /// Instance
        #[arg(add = complete::instances())]
        instance: String,
        /// Profiles, separated by commas; empty for none
        #[arg(add = complete::profiles())]
        profiles: String,
    },
    /// Copy a profile
    Copy {
        /// Profile
        #[arg(add = complete::profiles())]
        profile: String,
        /// Name of the copy
        new_name: String,
        /// Project of the copy
        #[arg(long, value_name = "PROJECT", add = complete::projects())]
        target_project: Option<String>,
    },
    /// Create a profile
    Create {
        /// Name
        name: String,
        /// Description
        #[arg(long)]
        description: Option<String>,
    },
    /// Delete a profile
    #[command(alias = "rm")]
    Delete {
        /// Profile
        #[arg(add = complete::profiles())]
        name: String,
    },
    /// Work with devices of a profile
    #[command(subcommand)]
    Device(Device),
    /// Edit a profile
    Edit {
        /// Profile
        #[arg(add = complete::profiles())]
        name: String,
    },
    /// Show a value
    Get {
        /// Profile
        #[arg(add = complete::profiles())]
        name: String,
        /// Key
        key: String,
    },
    /// List profiles
    #[command(alias = "ls")]
    List {
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
    },
    /// Take a profile from an instance
    Remove {
        /// Instance
        #[arg(add = complete::instances())]
        instance: String,
        /// Profile
        #[arg(add = complete::profiles())]
        profile: String,
    },
    /// Rename a profile
    Rename {
        /// Profile
        #[arg(add = complete::profiles())]
        name: String,
        /// New name
        new_name: String,
    },
    /// Set values: KEY=VALUE..., or KEY VALUE
    Set {
        /// Profile
        #[arg(add = complete::profiles())]
        name: String,
        /// KEY=VALUE
        #[arg(required = true)]
        values: Vec<String>,
    },
    /// Show a profile
    Show {
        /// Profile
        #[arg(add = complete::profiles())]
        name: String,
    },
    /// Remove a value
    Unset {
        /// Profile
        #[arg(add = complete::profiles())]
        name: String,
        /// Key
        key: String,
    },
}

impl Profile {
    pub async fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Device(device) => device.run_profile(context).await,
            Self::List { format } => list(context, format).await,
            Self::Create { name, description } => {
                let name = target::required(&name, "profile")?.to_owned();
                let description = description.unwrap_or_default();
                create(context, &ProfilesPost { name, description, ..ProfilesPost::default() }).await
            }
            Self::Copy { profile, new_name, target_project } => {
                let (from, _) = object::read::<Object>(context, target::required(&profile, "profile")?).await?;
                let name = target::required(&new_name, "profile")?.to_owned();
                let post =
                    ProfilesPost { name, config: from.config, description: from.description, devices: from.devices };
                let mut there = context.clone();
                if let Some(project) = target_project {
                    there.client = context.client.with_project(Some(&project));
                }
                create(&there, &post).await
            }
            Self::Delete { name } => context.delete(&endpoint(&name)?, "").await,
            Self::Rename { name, new_name } => {
                let post = ProfilePost { name: target::required(&new_name, "profile")?.to_owned() };
                context.run(Method::POST, &endpoint(&name)?, Some(&post), "").await.map(|_| ())
            }
            Self::Add { instance, profile } => {
                assign(context, &instance, |profiles| {
                    if profiles.contains(&profile) {
                        bail!("the instance has the profile `{profile}` already");
                    }
                    profiles.push(profile.clone());
                    Ok(())
                })
                .await
            }
            Self::Remove { instance, profile } => {
                assign(context, &instance, |profiles| {
                    let before = profiles.len();
                    profiles.retain(|have| *have != profile);
                    if profiles.len() == before {
                        bail!("the instance has no profile `{profile}`; it has: {}", profiles.join(", "));
                    }
                    Ok(())
                })
                .await
            }
            Self::Assign { instance, profiles } => {
                let wanted: Vec<String> =
                    profiles.split(',').filter(|name| !name.is_empty()).map(String::from).collect();
                assign(context, &instance, |profiles| {
                    profiles.clone_from(&wanted);
                    Ok(())
                })
                .await
            }
            Self::Show { name } => object::show::<Object>(context, target::required(&name, "profile")?).await,
            Self::Edit { name } => object::edit::<Object>(context, target::required(&name, "profile")?).await,
            Self::Get { name, key } => object::get::<Object>(context, target::required(&name, "profile")?, &key).await,
            Self::Set { name, values } => {
                let values = pairs::assignments(&values)?;
                object::set::<Object>(context, target::required(&name, "profile")?, &values).await
            }
            Self::Unset { name, key } => {
                object::unset::<Object>(context, target::required(&name, "profile")?, &key).await
            }
        }
    }
}

fn endpoint(name: &str) -> Result<Endpoint> {
    Ok(Endpoint::new(&["profiles", target::required(name, "profile")?]))
}

async fn create(context: &Context, post: &ProfilesPost) -> Result<()> {
    context.create(&Endpoint::new(&["profiles"]), post).await
}

async fn assign(context: &Context, instance: &str, mut edit: impl FnMut(&mut Vec<String>) -> Result<()>) -> Result<()> {
    let name = target::required(instance, "instance")?;
    object::change::<Instance>(context, name, |put| edit(&mut put.profiles)).await
}

async fn list(context: &Context, format: Format) -> Result<()> {
    let profiles: Vec<Object> = context.get(&Endpoint::new(&["profiles"]).query("recursion", "1")).await?;
    let mut table = Table::new(["NAME", "DESCRIPTION", "USED BY"]);
    for profile in &profiles {
        table.row([profile.name.clone(), profile.description.clone(), profile.used_by.len().to_string()]);
    }
    table.print(format, &profiles)
}
