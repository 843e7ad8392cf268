//! Columns of `berth list`.

use anyhow::{Result, bail};
use berth_api::instances::{InstanceFull, InstanceType};

use crate::output::{date, size};

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Column {
    /// One that has a letter.
    Letter(char),
    /// A configuration key and its title.
    Key(String, String),
}

const LETTERS: &[(char, &str)] = &[
    ('n', "NAME"),
    ('s', "STATE"),
    ('4', "IPV4"),
    ('6', "IPV6"),
    ('t', "TYPE"),
    ('S', "SNAPSHOTS"),
    ('a', "ARCHITECTURE"),
    ('b', "STORAGE POOL"),
    ('c', "CREATED AT"),
    ('d', "DESCRIPTION"),
    ('D', "DISK USAGE"),
    ('e', "PROJECT"),
    ('f', "BASE IMAGE"),
    ('F', "BASE IMAGE"),
    ('l', "LAST USED AT"),
    ('L', "LOCATION"),
    ('m', "MEMORY USAGE"),
    ('N', "PROCESSES"),
    ('p', "PID"),
    ('P', "PROFILES"),
    ('u', "CPU USAGE"),
];

/// Columns by letters and keys: `ns4,image.os:OS`.
pub fn parse(text: &str) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        if part.contains('.') {
            let mut fields = part.splitn(3, ':');
            let key = fields.next().unwrap_or_default();
            let title =
                fields.next().filter(|title| !title.is_empty()).map_or_else(|| key.to_uppercase(), str::to_owned);
            columns.push(Column::Key(key.to_owned(), title));
            continue;
        }
        for letter in part.chars() {
            if !LETTERS.iter().any(|(known, _)| *known == letter) {
                bail!("there is no column `{letter}`; `berth list --help` shows them all");
            }
            columns.push(Column::Letter(letter));
        }
    }
    if columns.is_empty() {
        bail!("no columns are given; `berth list --help` shows them all");
    }
    Ok(columns)
}

impl Column {
    /// Whether it needs the live state or the snapshots.
    pub fn needs_state(&self) -> bool {
        matches!(self, Self::Letter('4' | '6' | 'S' | 'D' | 'm' | 'N' | 'p' | 'u'))
    }

    /// Header.
    pub fn title(&self) -> String {
        match self {
            Self::Letter(letter) => {
                LETTERS.iter().find(|(known, _)| known == letter).map_or_else(String::new, |(_, title)| (*title).into())
            }
            Self::Key(_, title) => title.clone(),
        }
    }

    /// Contents for an instance.
    pub fn value(&self, full: &InstanceFull) -> String {
        let instance = &full.instance;
        let config = |key: &str| {
            instance.config.get(key).or_else(|| instance.expanded_config.get(key)).cloned().unwrap_or_default()
        };
        match self {
            Self::Key(key, _) => config(key),
            Self::Letter(letter) => match letter {
                'n' => instance.name.clone(),
                's' => instance.status.to_uppercase(),
                't' => kind(instance.kind, instance.ephemeral),
                'S' => full.snapshots.as_ref().map_or(0, Vec::len).to_string(),
                'a' => instance.architecture.clone(),
                'b' => root_pool(full),
                'c' => date(instance.created_at),
                'd' => instance.description.clone(),
                'e' => instance.project.clone(),
                'f' => config("volatile.base_image").chars().take(12).collect(),
                'F' => config("volatile.base_image"),
                'l' => date(instance.last_used_at),
                'L' => instance.location.clone(),
                'P' => instance.profiles.join("\n"),
                live => live_value(*live, full),
            },
        }
    }
}

fn live_value(letter: char, full: &InstanceFull) -> String {
    let Some(state) = &full.state else { return String::new() };
    match letter {
        '4' => addresses(full, "inet"),
        '6' => addresses(full, "inet6"),
        'D' => state.disk.get("root").map_or_else(String::new, |disk| size(disk.usage)),
        'm' if state.memory.usage > 0 => size(state.memory.usage),
        'N' if state.processes > 0 => state.processes.to_string(),
        'p' if state.pid > 0 => state.pid.to_string(),
        'u' if state.cpu.usage > 0 => format!("{}s", state.cpu.usage / 1_000_000_000),
        _ => String::new(),
    }
}

fn kind(kind: InstanceType, ephemeral: bool) -> String {
    let name = kind.as_str().to_uppercase();
    if ephemeral { format!("{name} (EPHEMERAL)") } else { name }
}

fn root_pool(full: &InstanceFull) -> String {
    let devices = &full.instance.expanded_devices;
    let root = devices.values().find(|device| {
        device.get("type").is_some_and(|kind| kind == "disk") && device.get("path").is_some_and(|path| path == "/")
    });
    root.and_then(|device| device.get("pool")).cloned().unwrap_or_default()
}

/// Addresses of a family, one a line, without those that only the host's end or the link knows.
fn addresses(full: &InstanceFull, family: &str) -> String {
    let Some(networks) = full.state.as_ref().and_then(|state| state.network.as_ref()) else { return String::new() };
    let mut lines = Vec::new();
    for (name, network) in networks.iter().filter(|(_, network)| network.kind != "loopback") {
        for address in &network.addresses {
            if address.family == family && !matches!(address.scope.as_str(), "link" | "local") {
                lines.push(format!("{} ({name})", address.address));
            }
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> InstanceFull {
        serde_json::from_value(serde_json::json!({
            "name": "c1", "status": "Running", "type": "container", "ephemeral": true, "profiles": ["default", "web"],
            "config": {"volatile.base_image": "0123456789abcdef", "image.os": "Debian"},
            "expanded_devices": {"disk": {"type": "disk", "path": "/", "pool": "fast"}},
            "snapshots": [{"name": "s0"}],
            "state": {"pid": 17, "processes": 3, "memory": {"usage": 1048576}, "cpu": {"usage": 2_500_000_000_i64},
                "network": {
                    "lo": {"type": "loopback", "addresses": [{"family": "inet", "address": "127.0.0.1", "scope": "local"}]},
                    "eth0": {"type": "broadcast", "addresses": [
                        {"family": "inet", "address": "10.1.2.3", "netmask": "24", "scope": "global"},
                        {"family": "inet6", "address": "fe80::1", "scope": "link"},
                        {"family": "inet6", "address": "fd00::1", "scope": "global"}]}}}
        }))
        .unwrap()
    }

    #[test]
    fn values() {
        let instance = instance();
        let expected = [
            ("n", "c1"),
            ("s", "RUNNING"),
            ("4", "10.1.2.3 (eth0)"),
            ("6", "fd00::1 (eth0)"),
            ("t", "CONTAINER (EPHEMERAL)"),
            ("S", "1"),
            ("b", "fast"),
            ("f", "0123456789ab"),
            ("m", "1.00MiB"),
            ("N", "3"),
            ("p", "17"),
            ("P", "default\nweb"),
            ("u", "2s"),
            ("image.os:OS", "Debian"),
        ];
        for (column, value) in expected {
            assert_eq!(parse(column).unwrap()[0].value(&instance), value, "{column}");
        }
    }

    #[test]
    fn columns_are_parsed() {
        let columns = parse("ns,image.os:OS,t").unwrap();
        assert_eq!(columns.iter().map(Column::title).collect::<Vec<_>>(), ["NAME", "STATE", "OS", "TYPE"]);
        assert_eq!(parse("user.x").unwrap(), [Column::Key("user.x".into(), "USER.X".into())]);
        assert!(parse("nX").is_err() && parse("").is_err());
        assert!(!parse("nstPac").unwrap().iter().any(Column::needs_state));
    }
}
