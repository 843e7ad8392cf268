//! `berth network`.

use std::fmt::Write as _;

use anyhow::Result;
use berth_api::{
    Endpoint,
    networks::{Network as Object, NetworkLease, NetworkState, NetworksPost},
};
use clap::Subcommand;

use crate::{
    complete, object,
    output::{self, Format, Table, size},
    pairs, target,
    target::Context,
};

/// Work with networks
#[derive(Debug, Subcommand)]
pub enum Network {
    /// Create a network
    Create {
        /// Name
        name: String,
        /// KEY=VALUE
        values: Vec<String>,
        /// Kind
        #[arg(short = 't', long = "type", default_value = "bridge", value_name = "TYPE")]
        kind: String,
        /// Description
        #[arg(long)]
        description: Option<String>,
    },
    /// Delete a network
    #[command(alias = "rm")]
    Delete {
        /// Network
        #[arg(add = complete::networks())]
        name: String,
    },
    /// Edit a network
    Edit {
        /// Network
        #[arg(add = complete::networks())]
        name: String,
    },
    /// Show a value
    Get {
        /// Network
        #[arg(add = complete::networks())]
        name: String,
        /// Key
        key: String,
    },
    /// Show the live state of a network
    Info {
        /// Network
        #[arg(add = complete::networks())]
        name: String,
    },
    /// List networks
    #[command(alias = "ls")]
    List {
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
    },
    /// List the addresses given to instances
    ListLeases {
        /// Network
        #[arg(add = complete::networks())]
        name: String,
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
    },
    /// Set values: KEY=VALUE..., or KEY VALUE
    Set {
        /// Network
        #[arg(add = complete::networks())]
        name: String,
        /// KEY=VALUE
        #[arg(required = true)]
        values: Vec<String>,
    },
    /// Show a network
    Show {
        /// Network
        #[arg(add = complete::networks())]
        name: String,
    },
    /// Remove a value
    Unset {
        /// Network
        #[arg(add = complete::networks())]
        name: String,
        /// Key
        key: String,
    },
}

impl Network {
    pub async fn run(self, context: &Context) -> Result<()> {
        let required = |name| target::required(name, "network");
        match self {
            Self::Create { name, values, kind, description } => {
                let post = NetworksPost {
                    config: pairs::map(&values)?,
                    description: description.unwrap_or_default(),
                    name: required(&name)?.to_owned(),
                    kind,
                };
                context.create(&Endpoint::new(&["networks"]), &post).await?;
                output::print(&format!("Network {} created\n", post.name))
            }
            Self::Delete { name } => {
                let name = required(&name)?;
                context.delete(&Endpoint::new(&["networks", name]), "").await?;
                output::print(&format!("Network {name} deleted\n"))
            }
            Self::Edit { name } => object::edit::<Object>(context, required(&name)?).await,
            Self::Get { name, key } => object::get::<Object>(context, required(&name)?, &key).await,
            Self::Show { name } => object::show::<Object>(context, required(&name)?).await,
            Self::Set { name, values } => {
                object::set::<Object>(context, required(&name)?, &pairs::assignments(&values)?).await
            }
            Self::Unset { name, key } => object::unset::<Object>(context, required(&name)?, &key).await,
            Self::Info { name } => {
                let name = required(&name)?;
                let state: NetworkState = context.get(&Endpoint::new(&["networks", name, "state"])).await?;
                output::print(&info(name, &state))
            }
            Self::List { format } => list(context, format).await,
            Self::ListLeases { name, format } => {
                let endpoint = Endpoint::new(&["networks", required(&name)?, "leases"]);
                let leases: Vec<NetworkLease> = context.get(&endpoint).await?;
                let mut table = Table::new(["HOSTNAME", "MAC ADDRESS", "IP ADDRESS", "TYPE"]);
                for lease in &leases {
                    let kind = lease.kind.to_uppercase();
                    table.row([lease.hostname.clone(), lease.hwaddr.clone(), lease.address.clone(), kind]);
                }
                table.print(format, &leases)
            }
        }
    }
}

async fn list(context: &Context, format: Format) -> Result<()> {
    let networks: Vec<Object> = context.get(&Endpoint::new(&["networks"]).query("recursion", "1")).await?;
    let mut table = Table::new(["NAME", "TYPE", "MANAGED", "IPV4", "IPV6", "DESCRIPTION", "USED BY", "STATE"]);
    for network in &networks {
        let value = |key: &str| network.config.get(key).cloned().unwrap_or_default();
        table.row([
            network.name.clone(),
            network.kind.clone(),
            if network.managed { "YES" } else { "NO" }.into(),
            value("ipv4.address"),
            value("ipv6.address"),
            network.description.clone(),
            network.used_by.len().to_string(),
            network.status.to_uppercase(),
        ]);
    }
    table.print(format, &networks)
}

fn info(name: &str, state: &NetworkState) -> String {
    let mut out = format!(
        "Name: {name}\nMAC address: {}\nMTU: {}\nState: {}\nType: {}\n",
        state.hwaddr, state.mtu, state.state, state.kind
    );
    // Writing to a String cannot fail.
    if !state.addresses.is_empty() {
        out.push_str("\nIP addresses:\n");
        for address in &state.addresses {
            let _ = writeln!(out, "  {}\t{}/{} ({})", address.family, address.address, address.netmask, address.scope);
        }
    }
    let counters = &state.counters;
    let _ = write!(
        out,
        "\nNetwork usage:\n  Bytes received: {}\n  Bytes sent: {}\n  Packets received: {}\n  Packets sent: {}\n",
        size(counters.bytes_received),
        size(counters.bytes_sent),
        counters.packets_received,
        counters.packets_sent
    );
    if let Some(bridge) = &state.bridge {
        let _ = writeln!(
            out,
            "\nBridge:\n  ID: {}\n  STP: {}\n  Links: {}",
            bridge.id,
            bridge.stp,
            bridge.upper_devices.join(", ")
        );
    }
    out
}
