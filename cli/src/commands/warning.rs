//! `berth warning`.

use anyhow::{Result, bail};
use berth_api::{
    Endpoint,
    client::Method,
    warnings::{Warning as Object, WarningPut},
};
use clap::Subcommand;

use crate::{
    output::{self, Format, Table, date},
    target::Context,
};

/// Work with warnings
#[derive(Debug, Subcommand)]
pub enum Warning {
    /// Mark a warning as read
    #[command(alias = "ack")]
    Acknowledge {
        /// UUID
        uuid: String,
    },
    /// Delete a warning
    #[command(alias = "rm")]
    Delete {
        /// UUID
        #[arg(required_unless_present = "all")]
        uuid: Option<String>,
        /// All warnings
        #[arg(short, long, conflicts_with = "uuid")]
        all: bool,
    },
    /// List warnings
    #[command(alias = "ls")]
    List {
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
        /// Resolved ones and those marked as read too
        #[arg(short, long)]
        all: bool,
    },
    /// Show a warning
    Show {
        /// UUID
        uuid: String,
    },
}

fn endpoint(uuid: &str) -> Endpoint {
    Endpoint::new(&["warnings", uuid])
}

impl Warning {
    pub async fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Acknowledge { uuid } => {
                let put = WarningPut { status: "acknowledged".into() };
                context.run(Method::PUT, &endpoint(&uuid), Some(&put), "").await.map(|_| ())
            }
            Self::Delete { uuid: Some(uuid), .. } => context.delete(&endpoint(&uuid), "").await,
            Self::Delete { uuid: None, all } => {
                if !all {
                    bail!("which warning? Give its UUID, or --all");
                }
                for warning in list(context).await? {
                    context.delete(&endpoint(&warning.uuid), "").await?;
                }
                Ok(())
            }
            Self::Show { uuid } => output::print_yaml(&context.get::<Object>(&endpoint(&uuid)).await?),
            Self::List { format, all } => {
                let mut warnings = list(context).await?;
                warnings.retain(|warning| all || warning.status == "new");
                let mut table = Table::new(["UUID", "TYPE", "STATUS", "SEVERITY", "COUNT", "PROJECT", "LAST SEEN"]);
                for warning in &warnings {
                    table.row([
                        warning.uuid.clone(),
                        warning.kind.clone(),
                        warning.status.to_uppercase(),
                        warning.severity.to_uppercase(),
                        warning.count.to_string(),
                        warning.project.clone(),
                        date(warning.last_seen_at),
                    ]);
                }
                table.print(format, &warnings)
            }
        }
    }
}

async fn list(context: &Context) -> Result<Vec<Object>> {
    context.get(&Endpoint::new(&["warnings"]).query("recursion", "1")).await
}
