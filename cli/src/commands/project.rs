//! `berth project`.

use anyhow::{Result, bail};
use berth_api::{
    Endpoint,
    client::Method,
    projects::{Project as Object, ProjectPost, ProjectState, ProjectsPost},
};
use clap::Subcommand;

use crate::{
    complete, object,
    output::{Format, Table},
    pairs, target,
    target::Context,
};

/// Work with projects
#[derive(Debug, Subcommand)]
pub enum Project {
    /// Create a project
    Create {
        /// Name
        name: String,
        /// KEY=VALUE
        #[arg(short, long = "config", value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// Description
        #[arg(long)]
        description: Option<String>,
    },
    /// Delete a project
    #[command(alias = "rm")]
    Delete {
        /// Project
        #[arg(add = complete::projects())]
        name: String,
    },
    /// Edit a project
    Edit {
        /// Project
        #[arg(add = complete::projects())]
        name: String,
    },
    /// Show a value
    Get {
        /// Project
        #[arg(add = complete::projects())]
        name: String,
        /// Key
        key: String,
    },
    /// Show what a project uses
    Info {
        /// Project
        #[arg(add = complete::projects())]
        name: String,
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
    },
    /// List projects
    #[command(alias = "ls")]
    List {
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
    },
    /// Rename a project
    Rename {
        /// Project
        #[arg(add = complete::projects())]
        name: String,
        /// New name
        new_name: String,
    },
    /// Set values: KEY=VALUE..., or KEY VALUE
    Set {
        /// Project
        #[arg(add = complete::projects())]
        name: String,
        /// KEY=VALUE
        #[arg(required = true)]
        values: Vec<String>,
    },
    /// Show a project
    Show {
        /// Project
        #[arg(add = complete::projects())]
        name: String,
    },
    /// How to work in another project
    Switch {
        /// Project
        #[arg(add = complete::projects())]
        name: String,
    },
    /// Remove a value
    Unset {
        /// Project
        #[arg(add = complete::projects())]
        name: String,
        /// Key
        key: String,
    },
}

impl Project {
    pub async fn run(self, context: &Context) -> Result<()> {
        let required = |name| target::required(name, "project");
        match self {
            Self::Create { name, config, description } => {
                let post = ProjectsPost {
                    config: pairs::map(&config)?,
                    description: description.unwrap_or_default(),
                    name: required(&name)?.to_owned(),
                };
                context.create(&Endpoint::new(&["projects"]), &post).await
            }
            Self::Delete { name } => context.delete(&Endpoint::new(&["projects", required(&name)?]), "").await,
            Self::Rename { name, new_name } => {
                let post = ProjectPost { name: required(&new_name)?.to_owned() };
                let endpoint = Endpoint::new(&["projects", required(&name)?]);
                context.run(Method::POST, &endpoint, Some(&post), "").await.map(|_| ())
            }
            Self::Edit { name } => object::edit::<Object>(context, required(&name)?).await,
            Self::Get { name, key } => object::get::<Object>(context, required(&name)?, &key).await,
            Self::Show { name } => object::show::<Object>(context, required(&name)?).await,
            Self::Set { name, values } => {
                object::set::<Object>(context, required(&name)?, &pairs::assignments(&values)?).await
            }
            Self::Unset { name, key } => object::unset::<Object>(context, required(&name)?, &key).await,
            Self::Switch { name } => {
                let name = required(&name)?;
                object::read::<Object>(context, name).await?;
                bail!(
                    "no project is remembered between commands: use `--project {name}`, or `export BERTH_PROJECT={name}`"
                )
            }
            Self::Info { name, format } => {
                let state: ProjectState = context.get(&Endpoint::new(&["projects", required(&name)?, "state"])).await?;
                let mut table = Table::new(["RESOURCE", "LIMIT", "USAGE"]);
                for (resource, usage) in &state.resources {
                    let limit = if usage.limit < 0 { "UNLIMITED".into() } else { usage.limit.to_string() };
                    table.row([resource.to_uppercase(), limit, usage.usage.to_string()]);
                }
                table.print(format, &state)
            }
            Self::List { format } => list(context, format).await,
        }
    }
}

async fn list(context: &Context, format: Format) -> Result<()> {
    let projects: Vec<Object> = context.get(&Endpoint::new(&["projects"]).query("recursion", "1")).await?;
    let mut table = Table::new(["NAME", "IMAGES", "PROFILES", "STORAGE VOLUMES", "NETWORKS", "DESCRIPTION", "USED BY"]);
    for project in &projects {
        let own = |feature: &str| {
            let on = project.config.get(&format!("features.{feature}")).is_some_and(|value| value == "true");
            if on { "YES" } else { "NO" }.to_owned()
        };
        let current = if project.name == context.client.project() { " (current)" } else { "" };
        table.row([
            format!("{}{current}", project.name),
            own("images"),
            own("profiles"),
            own("storage.volumes"),
            own("networks"),
            project.description.clone(),
            project.used_by.len().to_string(),
        ]);
    }
    table.print(format, &projects)
}
