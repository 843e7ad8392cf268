//! `berth operation`.

use anyhow::Result;
use berth_api::{
    Endpoint,
    operations::{Operation as Object, OperationsByStatus},
};
use clap::Subcommand;

use crate::{
    complete,
    output::{self, Format, Table, date},
    target,
    target::Context,
};

/// Work with background operations
#[derive(Debug, Subcommand)]
pub enum Operation {
    /// Cancel an operation
    #[command(alias = "cancel")]
    Delete {
        /// Id
        #[arg(add = complete::operations())]
        id: String,
    },
    /// List operations
    #[command(alias = "ls")]
    List {
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
        /// Operations of all projects
        #[arg(long)]
        all_projects: bool,
    },
    /// Show an operation
    Show {
        /// Id
        #[arg(add = complete::operations())]
        id: String,
    },
}

impl Operation {
    pub async fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Delete { id } => {
                let id = target::required(&id, "operation")?;
                context.client.cancel_operation(id).await?;
                output::print(&format!("Operation {id} deleted\n"))
            }
            Self::Show { id } => {
                let endpoint = Endpoint::new(&["operations", target::required(&id, "operation")?]);
                output::print_yaml(&context.get::<Object>(&endpoint).await?)
            }
            Self::List { format, all_projects } => {
                let endpoint =
                    Endpoint::new(&["operations"]).query("recursion", "1").flag("all-projects", all_projects);
                let by_status: OperationsByStatus = context.get(&endpoint).await?;
                let operations: Vec<Object> = by_status.into_values().flatten().collect();
                let mut table = Table::new(["ID", "TYPE", "DESCRIPTION", "STATE", "CANCELABLE", "CREATED"]);
                for operation in &operations {
                    table.row([
                        operation.id.clone(),
                        operation.class.to_uppercase(),
                        operation.description.clone(),
                        operation.status.to_uppercase(),
                        if operation.may_cancel { "YES" } else { "NO" }.into(),
                        date(operation.created_at),
                    ]);
                }
                table.print(format, &operations)
            }
        }
    }
}
