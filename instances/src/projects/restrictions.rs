//! What a restricted project forbids (`restricted.*`).

use super::config;
use super::limits::Member;
use crate::model::{Config, Devices, Kind};
use crate::values::parse_bool;

/// Options of containers that reach past what Berth models.
const LOWLEVEL_CONTAINER: &[&str] = &[
    "boot.host_shutdown_timeout",
    "limits.memory.hugepages",
    "linux.kernel_modules",
    "raw.apparmor",
    "raw.idmap",
    "raw.lxc",
    "raw.seccomp",
    "security.devlxd.images",
    "security.idmap.base",
    "security.idmap.size",
];
const LOWLEVEL_CONTAINER_PREFIXES: &[&str] = &["limits.kernel.", "linux.sysctl.", "security.syscalls."];
/// The same of virtual machines.
const LOWLEVEL_VM: &[&str] =
    &["boot.host_shutdown_timeout", "limits.memory.hugepages", "raw.idmap", "raw.qemu", "raw.qemu.conf"];
/// Begin of the keys that let the host act for system calls of a container.
const INTERCEPT: &str = "security.syscalls.intercept.";

/// The restrictions of a project that has any.
pub(super) struct Restrictions<'a> {
    project: &'a str,
    config: &'a Config,
}

impl<'a> Restrictions<'a> {
    /// Those of a valid configuration, if it says `restricted`.
    pub fn of(project: &'a str, config: &'a Config) -> Option<Self> {
        config::flag(config, "restricted").then_some(Self { project, config })
    }

    /// Whether an instance (or, without a kind, a profile) may look like this.
    pub fn check(&self, kind: Option<Kind>, config: &Config, devices: &Devices) -> Result<(), String> {
        for (key, value) in config {
            if let Some(by) = self.key(kind, key, value) {
                return Err(self.refusal(&format!("the key \"{key}\""), by));
            }
        }
        for (name, device) in devices {
            if let Some(by) = self.device(device) {
                return Err(self.refusal(&format!("the device \"{name}\""), &by));
            }
        }
        Ok(())
    }

    /// Whether all instances of the project may look as they do.
    pub fn check_all(&self, members: &[Member]) -> Result<(), String> {
        for member in members {
            let checked = self.check(Some(member.kind), &member.config, &member.devices);
            checked.map_err(|reason| format!("instance \"{}\": {reason}", member.name))?;
        }
        Ok(())
    }

    /// Whether what a key of its own governs, such as `restricted.snapshots`, is allowed.
    pub fn allows(&self, key: &str) -> Result<(), String> {
        if self.is(key, "allow") { Ok(()) } else { Err(self.refusal("this", key)) }
    }

    fn refusal(&self, what: &str, by: &str) -> String {
        format!(
            "project \"{}\" forbids {what} ({by}={}); leave it out or change the project",
            self.project,
            self.value(by)
        )
    }

    fn value(&self, key: &str) -> &str {
        config::value(self.config, key)
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.value(key) == value
    }

    /// The restriction that forbids a key with this value.
    fn key(&self, kind: Option<Kind>, key: &str, value: &str) -> Option<&'static str> {
        if kind != Some(Kind::VirtualMachine)
            && let Some(by) = self.container_key(key, value)
        {
            return Some(by);
        }
        let by = "restricted.virtual-machines.lowlevel";
        let lowlevel = kind != Some(Kind::Container) && LOWLEVEL_VM.contains(&key) && !self.is(by, "allow");
        (lowlevel && !value.is_empty()).then_some(by)
    }

    fn container_key(&self, key: &str, value: &str) -> Option<&'static str> {
        let on = parse_bool(value).unwrap_or(true);
        let (forbidden, by) = match key {
            "security.nesting" => {
                (on && !self.is("restricted.containers.nesting", "allow"), "restricted.containers.nesting")
            }
            "security.privileged" => {
                (on && !self.is("restricted.containers.privilege", "allow"), "restricted.containers.privilege")
            }
            "security.idmap.isolated" => {
                (!on && self.is("restricted.containers.privilege", "isolated"), "restricted.containers.privilege")
            }
            _ if key.starts_with(INTERCEPT) => {
                // Mounting on behalf of a container puts the host's kernel before its file systems.
                let wanted: &[&str] =
                    if key[INTERCEPT.len()..].starts_with("mount") { &["full"] } else { &["allow", "full"] };
                (
                    on && !wanted.contains(&self.value("restricted.containers.interception")),
                    "restricted.containers.interception",
                )
            }
            _ => {
                let lowlevel = LOWLEVEL_CONTAINER.contains(&key)
                    || LOWLEVEL_CONTAINER_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
                (
                    lowlevel && !value.is_empty() && !self.is("restricted.containers.lowlevel", "allow"),
                    "restricted.containers.lowlevel",
                )
            }
        };
        forbidden.then_some(by)
    }

    /// The restriction that forbids a device.
    fn device(&self, device: &Config) -> Option<String> {
        let get = |key: &str| device.get(key).map(String::as_str).unwrap_or_default();
        let by = format!("restricted.devices.{}", get("type"));
        match get("type") {
            "disk" if get("path") == "/" => None,
            "disk" => self.disk(get("pool"), get("source")),
            "nic" => self.nic(get("network")),
            "gpu" | "infiniband" | "pci" | "proxy" | "unix-block" | "unix-char" | "unix-hotplug" | "usb" => {
                (!self.is(&by, "allow")).then_some(by)
            }
            _ => None,
        }
    }

    fn disk(&self, pool: &str, source: &str) -> Option<String> {
        const BY: &str = "restricted.devices.disk";
        const PATHS: &str = "restricted.devices.disk.paths";
        let by = match (self.value(BY), pool.is_empty()) {
            ("block", _) | ("managed", true) => Some(BY),
            (_, false) => None,
            _ => {
                let allowed = config::list(self.config, PATHS);
                let below = |base: &&str| std::path::Path::new(source).starts_with(base);
                let good = allowed.is_empty() || (config::plain_path(source) && allowed.iter().any(below));
                (!good).then_some(PATHS)
            }
        };
        by.map(str::to_owned)
    }

    fn nic(&self, network: &str) -> Option<String> {
        const BY: &str = "restricted.devices.nic";
        const ACCESS: &str = "restricted.networks.access";
        let by = match (self.value(BY), network.is_empty()) {
            ("block", _) | ("managed", true) => Some(BY),
            (_, true) => None,
            _ => {
                let allowed = config::list(self.config, ACCESS);
                (!allowed.is_empty() && !allowed.contains(&network)).then_some(ACCESS)
            }
        };
        by.map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Config {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn key(project: &[(&str, &str)], kind: Option<Kind>, key: &str, value: &str) -> bool {
        let project = config(&[&[("restricted", "true")], project].concat());
        let restrictions = Restrictions::of("p", &project).unwrap();
        restrictions.check(kind, &config(&[(key, value)]), &Devices::new()).is_ok()
    }

    fn device(project: &[(&str, &str)], pairs: &[(&str, &str)]) -> bool {
        let project = config(&[&[("restricted", "true")], project].concat());
        let restrictions = Restrictions::of("p", &project).unwrap();
        restrictions.check(None, &Config::new(), &[("d".to_owned(), config(pairs))].into()).is_ok()
    }

    #[test]
    fn a_project_that_is_not_restricted_forbids_nothing() {
        assert!(Restrictions::of("p", &config(&[("restricted.devices.nic", "block")])).is_none());
    }

    #[test]
    fn keys() {
        let container = Some(Kind::Container);
        assert!(key(&[], container, "limits.memory", "1GiB"));
        assert!(!key(&[], container, "security.nesting", "true"));
        assert!(key(&[], container, "security.nesting", "false"));
        assert!(key(&[("restricted.containers.nesting", "allow")], container, "security.nesting", "true"));
        assert!(!key(&[], container, "security.privileged", "1"));
        assert!(!key(&[], None, "raw.lxc", "x") && !key(&[], container, "limits.kernel.nofile", "9"));
        assert!(key(&[("restricted.containers.lowlevel", "allow")], container, "raw.lxc", "x"));
        assert!(!key(&[("restricted.containers.lowlevel", "allow")], Some(Kind::VirtualMachine), "raw.qemu", "x"));
        let allow = &[("restricted.containers.interception", "allow")];
        assert!(key(allow, container, "security.syscalls.intercept.mknod", "true"));
        assert!(!key(allow, container, "security.syscalls.intercept.mount", "true"));
    }

    #[test]
    fn devices() {
        assert!(device(
            &[("restricted.devices.disk", "block")],
            &[("type", "disk"), ("path", "/"), ("pool", "default")]
        ));
        let path = [("type", "disk"), ("path", "/x"), ("source", "/srv/a")];
        assert!(!device(&[], &path));
        assert!(device(&[("restricted.devices.disk", "allow")], &path));
        let below = |paths| [("restricted.devices.disk", "allow"), ("restricted.devices.disk.paths", paths)];
        assert!(
            device(&below("/data,/srv"), &path) && !device(&below("/srv/a/b"), &path) && !device(&below("/sr"), &path)
        );
        let escape = [("type", "disk"), ("path", "/x"), ("source", "/srv/../etc")];
        assert!(!device(&below("/srv"), &escape));
        assert!(device(&[], &[("type", "nic"), ("network", "n")]));
        assert!(!device(&[("restricted.networks.access", "m")], &[("type", "nic"), ("network", "n")]));
        assert!(!device(&[], &[("type", "nic"), ("nictype", "bridged"), ("parent", "br0")]));
        assert!(
            !device(&[], &[("type", "proxy")])
                && device(&[("restricted.devices.proxy", "allow")], &[("type", "proxy")])
        );
        assert!(device(&[], &[("type", "none")]));
    }
}
