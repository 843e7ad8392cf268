//! Kernel settings that a bridge needs.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::BridgeSpec;
use crate::nic::is_port_name;

const NET: &str = "/proc/sys/net";

/// Whether the kernel has IPv6 at all.
pub(crate) fn has_ipv6() -> bool {
    Path::new(NET).join("ipv6/conf").is_dir()
}

/// Makes the settings for a bridge that is there but has no addresses yet; tells what could not be set.
///
/// None of it is fatal: without forwarding the instances still reach each other and the host.
pub(crate) fn prepare(spec: &BridgeSpec) -> Vec<String> {
    let mut problems = Vec::new();
    let mut set = |setting: &str, value: &str| {
        if let Err(error) = set(setting, value) {
            problems.push(format!("cannot set net.{}={value}: {error}", setting.replace('/', ".")));
        }
    };
    if spec.ipv4.is_some() {
        set("ipv4/ip_forward", "1");
    }
    if has_ipv6() {
        let own = |name: &str| format!("ipv6/conf/{}/{name}", spec.name);
        // The bridge is the router here: it takes no address from anybody, and waits for no clash with its own.
        set(&own("accept_ra"), "0");
        set(&own("autoconf"), "0");
        set(&own("accept_dad"), "0");
        if spec.ipv6.is_some() {
            keep_router_advertisements(&spec.name, &mut set);
            set("ipv6/conf/all/forwarding", "1");
        }
    }
    problems
}

/// A host that forwards stops to listen to routers, unless an interface says 2: without this, switching forwarding on
/// would take the host's own IPv6 connection away.
fn keep_router_advertisements(bridge: &str, set: &mut impl FnMut(&str, &str)) {
    let Ok(entries) = std::fs::read_dir(Path::new(NET).join("ipv6/conf")) else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let setting = format!("ipv6/conf/{name}/accept_ra");
        let other = name == bridge || is_port_name(&name) || ["all", "default", "lo"].contains(&name.as_str());
        if !other && get(&setting).is_ok_and(|value| value == "1") {
            set(&setting, "2");
        }
    }
}

fn path(setting: &str) -> PathBuf {
    Path::new(NET).join(setting)
}

fn get(setting: &str) -> io::Result<String> {
    std::fs::read_to_string(path(setting)).map(|text| text.trim().to_owned())
}

/// Sets what differs, so that a setting which is right but read-only (in a container) is no problem.
fn set(setting: &str, value: &str) -> io::Result<()> {
    if get(setting)? == value { Ok(()) } else { std::fs::write(path(setting), value) }
}
