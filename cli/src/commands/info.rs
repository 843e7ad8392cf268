//! `berth info`.

use std::fmt::Write as _;

use anyhow::Result;
use berth_api::{
    Endpoint,
    instances::{InstanceFull, InstanceState, InstanceStateNetwork},
    resources::Resources,
    server::Server,
};
use clap::Args;

use super::{console, launch::missing};
use crate::{
    complete,
    output::{self, date, size},
    target,
    target::Context,
};

/// Show an instance, or the server
#[derive(Debug, Args)]
pub struct Info {
    /// Instance; the server without
    #[arg(add = complete::instances())]
    instance: Option<String>,
    /// Show the log of the instance's console too
    #[arg(long, requires = "instance")]
    show_log: bool,
    /// Show the host's resources
    #[arg(long, conflicts_with = "instance")]
    resources: bool,
}

impl Info {
    pub async fn run(self, context: &Context) -> Result<()> {
        let name = self.instance.as_deref().map(target::name).transpose()?.unwrap_or_default();
        if name.is_empty() {
            return if self.resources {
                let resources: Resources = context.get(&Endpoint::new(&["resources"])).await?;
                output::print_yaml(&resources)
            } else {
                let server: Server = context.get(&Endpoint::new(&[])).await?;
                output::print_yaml(&server)
            };
        }
        let endpoint = target::instance(name).query("recursion", "1");
        let full: InstanceFull = context.client.get(&endpoint).await.map_err(|error| missing(error, name))?;
        output::print(&text(&full))?;
        if self.show_log {
            output::print("\nLog:\n\n")?;
            console::show_log(context, name).await?;
        }
        Ok(())
    }
}

/// All there is to say of an instance.
fn text(full: &InstanceFull) -> String {
    let instance = &full.instance;
    let mut out = format!("Name: {}\nStatus: {}\n", instance.name, instance.status.to_uppercase());
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{name}: {value}"); // writing to a String cannot fail
        }
    };
    let kind = if instance.ephemeral { format!("{} (ephemeral)", instance.kind) } else { instance.kind.to_string() };
    line("Type", &kind);
    line("Architecture", &instance.architecture);
    if !matches!(instance.location.as_str(), "" | "none") {
        line("Location", &instance.location);
    }
    line("Description", &instance.description);
    if let Some(state) = full.state.as_ref().filter(|state| state.pid > 0) {
        line("PID", &state.pid.to_string());
    }
    line("Created", &date(instance.created_at));
    line("Last Used", &date(instance.last_used_at));
    line("Last error", instance.config.get("volatile.last_state.error").map_or("", String::as_str));
    if let Some(state) = full.state.as_ref().filter(|state| state.pid > 0) {
        resources(state, &mut out);
    }
    let snapshots = full.snapshots.as_deref().unwrap_or_default();
    if !snapshots.is_empty() {
        out.push_str("\nSnapshots:\n");
        for snapshot in snapshots {
            let _ = write!(out, "  {} ({})", snapshot.name, date(snapshot.created_at));
            if !snapshot.expires_at.is_never() {
                let _ = write!(out, ", expires {}", date(snapshot.expires_at));
            }
            out.push('\n');
        }
    }
    out
}

fn resources(state: &InstanceState, out: &mut String) {
    out.push_str("\nResources:\n");
    if state.processes > 0 {
        let _ = writeln!(out, "  Processes: {}", state.processes);
    }
    if !state.disk.is_empty() {
        out.push_str("  Disk usage:\n");
        for (name, disk) in &state.disk {
            let _ = writeln!(out, "    {name}: {}", size(disk.usage));
        }
    }
    if state.cpu.usage > 0 {
        let _ = writeln!(out, "  CPU usage:\n    CPU usage (in seconds): {}", state.cpu.usage / 1_000_000_000);
    }
    let memory = [
        ("Memory (current)", state.memory.usage),
        ("Memory (peak)", state.memory.usage_peak),
        ("Swap (current)", state.memory.swap_usage),
        ("Swap (peak)", state.memory.swap_usage_peak),
    ];
    if memory.iter().any(|(_, bytes)| *bytes > 0) {
        out.push_str("  Memory usage:\n");
        for (name, bytes) in memory.iter().filter(|(_, bytes)| *bytes > 0) {
            let _ = writeln!(out, "    {name}: {}", size(*bytes));
        }
    }
    let networks = state.network.iter().flatten();
    let mut title = "  Network usage:\n";
    for (name, network) in networks {
        out.push_str(std::mem::take(&mut title));
        interface(name, network, out);
    }
}

fn interface(name: &str, network: &InstanceStateNetwork, out: &mut String) {
    let _ = writeln!(out, "    {name}:\n      Type: {}\n      State: {}", network.kind, network.state.to_uppercase());
    for (title, value) in [("Host interface", &network.host_name), ("MAC address", &network.hwaddr)] {
        if !value.is_empty() {
            let _ = writeln!(out, "      {title}: {value}");
        }
    }
    let counters = &network.counters;
    let _ = writeln!(
        out,
        "      MTU: {}\n      Bytes received: {}\n      Bytes sent: {}\n      Packets received: {}\n      Packets sent: {}",
        network.mtu,
        size(counters.bytes_received),
        size(counters.bytes_sent),
        counters.packets_received,
        counters.packets_sent
    );
    if !network.addresses.is_empty() {
        out.push_str("      IP addresses:\n");
        for address in &network.addresses {
            let family = format!("{}:", address.family);
            let _ = writeln!(out, "        {family:<7}{}/{} ({})", address.address, address.netmask, address.scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_instance_is_short() {
        let full: InstanceFull = serde_json::from_value(serde_json::json!({
            "name": "c1", "status": "Stopped", "type": "container", "architecture": "x86_64", "location": "none",
            "config": {"volatile.last_state.error": "it broke"},
            "state": {"pid": 0, "network": null}, "snapshots": null
        }))
        .unwrap();
        assert_eq!(
            text(&full),
            "Name: c1\nStatus: STOPPED\nType: container\nArchitecture: x86_64\nLast error: it broke\n"
        );
    }

    #[test]
    fn a_running_instance_tells_its_usage() {
        let full: InstanceFull = serde_json::from_value(serde_json::json!({
            "name": "v", "status": "Running", "type": "virtual-machine", "architecture": "x86_64",
            "state": {"pid": 7, "processes": 9, "memory": {"usage": 1048576}, "network": {"eth0": {
                "type": "broadcast", "state": "up", "hwaddr": "00:16:3e:00:00:01", "mtu": 1500,
                "addresses": [{"family": "inet", "address": "10.0.0.2", "netmask": "24", "scope": "global"}]}}}
        }))
        .unwrap();
        assert_eq!(
            text(&full),
            "\
Name: v
Status: RUNNING
Type: virtual-machine
Architecture: x86_64
PID: 7

Resources:
  Processes: 9
  Memory usage:
    Memory (current): 1.00MiB
  Network usage:
    eth0:
      Type: broadcast
      State: UP
      MAC address: 00:16:3e:00:00:01
      MTU: 1500
      Bytes received: 0B
      Bytes sent: 0B
      Packets received: 0
      Packets sent: 0
      IP addresses:
        inet:  10.0.0.2/24 (global)
"
        );
    }
}
