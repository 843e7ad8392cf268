//! `berth list`.

use anyhow::Result;
use berth_api::{Endpoint, instances::InstanceFull};
use clap::Args;

use super::list_columns::{Column, parse};
use crate::{
    output::{Format, Table},
    target::Context,
};

/// List instances
#[derive(Debug, Args)]
#[command(after_help = "\
FILTER is the begin of a name, or KEY=VALUE: status=running, type=container, user.team=web.

Columns:
  n name      s state         t type      4 IPv4      6 IPv6       S snapshots
  a arch      b storage pool  c created   d description  D disk    e project
  f image     F whole fingerprint         l last used    L location  m memory
  N processes p pid           P profiles  u CPU seconds
  KEY[:TITLE] a configuration key, after a comma: -c ns,image.os:OS")]
pub struct List {
    /// Which instances
    filters: Vec<String>,
    /// Columns to show
    #[arg(short, long, default_value = "ns46tS", value_name = "COLUMNS")]
    columns: String,
    /// Format
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    format: Format,
    /// Only what is quickly known: nsacPt
    #[arg(long, conflicts_with = "columns")]
    fast: bool,
    /// Instances of all projects
    #[arg(long)]
    all_projects: bool,
}

/// Fields that the server filters by.
const SERVER_FIELDS: [&str; 8] =
    ["name", "status", "type", "architecture", "description", "location", "project", "ephemeral"];

impl List {
    pub async fn run(self, context: &Context) -> Result<()> {
        let mut columns = parse(if self.fast { "nsacPt" } else { &self.columns })?;
        if self.all_projects && !columns.iter().any(|column| matches!(column, Column::Letter('e'))) {
            columns.insert(0, Column::Letter('e'));
        }
        let full = matches!(self.format, Format::Json | Format::Yaml) || columns.iter().any(Column::needs_state);
        let (server, client) = split(&self.filters);
        let endpoint = Endpoint::new(&["instances"])
            .query("filter", &server)
            .query("recursion", if full { "2" } else { "1" })
            .flag("all-projects", self.all_projects);
        let mut instances: Vec<InstanceFull> = context.get(&endpoint).await?;
        instances.retain(|instance| client.iter().all(|filter| matches(instance, filter)));
        instances.sort_by(|a, b| (&a.instance.project, &a.instance.name).cmp(&(&b.instance.project, &b.instance.name)));
        let mut table = Table::new(columns.iter().map(Column::title));
        for instance in &instances {
            table.row(columns.iter().map(|column| column.value(instance)));
        }
        table.print(self.format, &instances)
    }
}

/// The filters for the server, as its expression, and those for the client.
fn split(filters: &[String]) -> (String, Vec<String>) {
    let mut server = Vec::new();
    let mut client = Vec::new();
    for filter in filters {
        match filter.split_once('=') {
            Some((key, value)) if SERVER_FIELDS.contains(&key) && !value.contains(['"', '\'']) => {
                let value = if value.contains(' ') { format!("\"{value}\"") } else { value.to_owned() };
                server.push(format!("{key} eq {value}"));
            }
            _ => client.push(filter.clone()),
        }
    }
    (server.join(" and "), client)
}

/// Whether an instance has this begin of its name, or this value in its configuration.
fn matches(instance: &InstanceFull, filter: &str) -> bool {
    let instance = &instance.instance;
    match filter.split_once('=') {
        Some((key, value)) => {
            instance.expanded_config.get(key).or_else(|| instance.config.get(key)).is_some_and(|have| have == value)
        }
        None => instance.name.starts_with(filter.strip_prefix("local:").unwrap_or(filter)),
    }
}

#[cfg(test)]
mod tests {
    use berth_api::instances::Instance;

    use super::*;

    #[test]
    fn filters_go_where_they_belong() {
        let filters = ["web", "status=running", "type=container", "user.team=a b"].map(String::from);
        let (server, client) = split(&filters);
        assert_eq!(server, "status eq running and type eq container");
        assert_eq!(client, ["web", "user.team=a b"]);
        assert_eq!(split(&["description=a b".into()]).0, "description eq \"a b\"");
    }

    #[test]
    fn the_client_filters() {
        let config = [("user.team".to_owned(), "web".to_owned())].into();
        let instance = Instance { name: "web1".into(), expanded_config: config, ..Instance::default() };
        let instance = InstanceFull { instance, ..InstanceFull::default() };
        assert!(matches(&instance, "web") && matches(&instance, "user.team=web") && matches(&instance, "local:"));
        assert!(!matches(&instance, "db") && !matches(&instance, "user.team=db"));
    }
}
