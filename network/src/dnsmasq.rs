//! DHCP, router advertisements and names: one dnsmasq per network.
//!
//! dnsmasq puts itself into the background and is not a child of the daemon, so it goes on when the daemon ends and is
//! found again by the next one: by its pid file and by its command line, which holds the path of its configuration and
//! so cannot be that of anybody else. A pidfd is taken before the check, so a signal never meets another process.

use std::ffi::OsString;
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::Command;

use crate::config::{BridgeSpec, DnsMode};
use crate::error::NetworkError;
use crate::{files, pidfd, sysctl};

/// How long dnsmasq may take to start, and to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The files of a network's dnsmasq.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    dir: PathBuf,
}

/// A running dnsmasq.
#[derive(Debug)]
pub(crate) struct Process {
    pidfd: OwnedFd,
}

impl Files {
    /// Those in the directory of a network.
    pub(crate) fn new(dir: &Path) -> Files {
        Files { dir: dir.to_owned() }
    }

    fn config(&self) -> PathBuf {
        self.dir.join("dnsmasq.conf")
    }

    fn raw(&self) -> PathBuf {
        self.dir.join("dnsmasq.raw")
    }

    fn pid(&self) -> PathBuf {
        self.dir.join("dnsmasq.pid")
    }

    /// The leases that were given out.
    pub(crate) fn leases(&self) -> PathBuf {
        self.dir.join("dnsmasq.leases")
    }

    /// One file for each known network card.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    /// Whether a user without privileges can get to the directory.
    fn reachable(&self) -> bool {
        self.dir
            .ancestors()
            .skip(1)
            .filter(|dir| !dir.as_os_str().is_empty())
            .all(|dir| std::fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
    }
}

/// Whether the network needs a dnsmasq.
pub(crate) fn wanted(spec: &BridgeSpec) -> bool {
    spec.ipv4.is_some() || spec.ipv6.is_some()
}

/// The configuration. Everything in it was checked: it holds no line breaks but its own.
fn config(spec: &BridgeSpec, files: &Files, root: bool) -> String {
    let mut text = String::from("# Written by Berth; changes are lost. Use the network's key raw.dnsmasq instead.\n");
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    let name = &spec.name;
    for plain in
        ["no-hosts", "no-ping", "bind-interfaces", "except-interface=lo", "dhcp-authoritative", "dhcp-no-override"]
    {
        line(plain.to_owned());
    }
    for quiet in ["quiet-dhcp", "quiet-dhcp6", "quiet-ra"] {
        line(quiet.to_owned());
    }
    line(format!("interface={name}"));
    line(format!("pid-file={}", files.pid().display()));
    line(format!("dhcp-leasefile={}", files.leases().display()));
    line(format!("dhcp-hostsdir={}", files.hosts().display()));
    if root {
        line("user=root".to_owned());
    }
    if let (Some(net), true) = (spec.ipv4, spec.ipv4_dhcp) {
        for (first, last) in ipv4_ranges(spec, net) {
            line(format!("dhcp-range={first},{last},1h"));
        }
        if spec.mtu != 1500 {
            line(format!("dhcp-option-force=option:mtu,{}", spec.mtu));
        }
    }
    if spec.ipv6.is_some() && sysctl::has_ipv6() {
        line("enable-ra".to_owned());
        let mode = match (spec.ipv6_dhcp, spec.dns) {
            (true, DnsMode::None) => "ra-stateless",
            (true, _) => "ra-stateless,ra-names",
            (false, _) => "ra-only",
        };
        line(format!("dhcp-range=::,constructor:{name},{mode},64,1h"));
    }
    let domain = &spec.domain;
    match spec.dns {
        DnsMode::None => line("port=0".to_owned()),
        mode => {
            line(format!("domain={domain}"));
            line(format!("local=/{domain}/"));
            line(format!("interface-name=_gateway.{domain},{name}"));
            if mode == DnsMode::Managed {
                // Names come from the hosts directory only: no guest can take another's.
                line("dhcp-ignore-names".to_owned());
            }
        }
    }
    line(format!("conf-file={}", files.raw().display()));
    text
}

/// What DHCP gives out: the configured ranges, or all but the gateway.
fn ipv4_ranges(spec: &BridgeSpec, net: crate::subnet::Net) -> Vec<(IpAddr, IpAddr)> {
    if !spec.ipv4_ranges.is_empty() {
        return spec.ipv4_ranges.iter().map(|(first, last)| ((*first).into(), (*last).into())).collect();
    }
    let (first, last) = net.hosts();
    let step = |addr: IpAddr, by: i64| match addr {
        IpAddr::V4(addr) => IpAddr::V4(u32::try_from(i64::from(addr.to_bits()) + by).unwrap_or(0).into()),
        other => other,
    };
    let parts = [(first, step(net.addr(), -1)), (step(net.addr(), 1), last)];
    parts.into_iter().filter(|(first, last)| first <= last).collect()
}

/// Sees to it that dnsmasq runs with the present configuration. One that does is left alone.
///
/// Returns it, and what falls short.
pub(crate) async fn ensure(spec: &BridgeSpec, dir: &Path) -> Result<(Process, Vec<String>), NetworkError> {
    let paths = Files::new(dir);
    let root = !paths.reachable();
    let mut warnings = Vec::new();
    if root {
        warnings.push(format!("dnsmasq runs as root, because others cannot get to {}", dir.display()));
    }
    files::make_dir(&paths.hosts(), 0o755).await?;
    let wanted = config(spec, &paths, root);
    let running = find(&paths)?;
    if let Some(process) = running {
        let same = files::read(&paths.config()).await?.as_ref() == Some(&wanted)
            && files::read(&paths.raw()).await?.as_ref() == Some(&spec.raw_dnsmasq);
        if same {
            return Ok((process, warnings));
        }
        process.stop().await?;
    }
    // Only now, so that what the files say is always what the running one was started with.
    files::write(&paths.raw(), &spec.raw_dnsmasq).await?;
    files::write(&paths.config(), &wanted).await?;
    Ok((start(&spec.name, &paths).await?, warnings))
}

/// Starts dnsmasq; it serves when this returns.
async fn start(network: &str, paths: &Files) -> Result<Process, NetworkError> {
    let fail = |reason: String| NetworkError::Program {
        what: format!("serve addresses and names on network {network:?}"),
        program: "dnsmasq",
        reason,
    };
    let mut command = Command::new("dnsmasq");
    command.arg(config_argument(paths)).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => fail("is not installed: install the package dnsmasq-base".to_owned()),
        _ => fail(format!("cannot be started: {error}")),
    })?;
    // It ends when the one in the background is ready, or has failed.
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output =
        output.map_err(|_| fail("does not become ready".to_owned()))?.map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let text = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("without a reason");
        return Err(fail(format!("failed: {}", text.trim_start_matches("dnsmasq: "))));
    }
    find(paths)?.ok_or_else(|| fail("ended right after its start: look for its reason in the system log".to_owned()))
}

fn config_argument(paths: &Files) -> OsString {
    let mut argument = OsString::from("--conf-file=");
    argument.push(paths.config());
    argument
}

/// The running dnsmasq of these files, if there is one.
pub(crate) fn find(paths: &Files) -> Result<Option<Process>, NetworkError> {
    let text = match std::fs::read_to_string(paths.pid()) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(NetworkError::path(paths.pid())(error)),
    };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(None) };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(None) };
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0);
    let program = words.next().is_some_and(|word| word.ends_with(b"dnsmasq"));
    let ours = program && words.next() == Some(config_argument(paths).as_bytes());
    Ok(ours.then_some(Process { pidfd }))
}

/// Lets the running dnsmasq, if there is one, read its hosts again.
pub(crate) fn reload(dir: &Path) -> Result<(), NetworkError> {
    if let Some(process) = find(&Files::new(dir))? {
        process.signal(Signal::HUP)?;
    }
    Ok(())
}

/// Ends the running dnsmasq, if there is one.
pub(crate) async fn stop(dir: &Path) -> Result<(), NetworkError> {
    match find(&Files::new(dir))? {
        Some(process) => process.stop().await,
        None => Ok(()),
    }
}

impl Process {
    fn signal(&self, signal: Signal) -> Result<(), NetworkError> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(NetworkError::link("signal dnsmasq")(error.into())),
        }
    }

    /// Returns when it has ended.
    pub(crate) async fn exited(&self) -> Result<(), NetworkError> {
        pidfd::exited(&self.pidfd).await.map_err(NetworkError::link("watch dnsmasq"))
    }

    async fn stop(&self) -> Result<(), NetworkError> {
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(PATIENCE, self.exited()).await {
            Ok(exited) => exited,
            Err(_) => {
                self.signal(Signal::KILL)?;
                self.exited().await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn text(pairs: &[(&str, &str)]) -> String {
        let config = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        super::config(&parse("br0", &config).unwrap(), &Files::new(Path::new("/x")), false)
    }

    #[test]
    fn gives_out_all_but_the_gateway() {
        let all = text(&[("ipv4.address", "10.1.2.1/24")]);
        assert!(all.contains("dhcp-range=10.1.2.2,10.1.2.254,1h\n") && !all.contains("enable-ra"));
        let middle = text(&[("ipv4.address", "10.1.2.100/24")]);
        assert!(middle.contains("dhcp-range=10.1.2.1,10.1.2.99,1h\ndhcp-range=10.1.2.101,10.1.2.254,1h\n"));
        let some = text(&[("ipv4.address", "10.1.2.1/24"), ("ipv4.dhcp.ranges", "10.1.2.9-10.1.2.11")]);
        assert!(some.contains("dhcp-range=10.1.2.9,10.1.2.11,1h\n") && !some.contains("10.1.2.254"));
        assert!(!text(&[("ipv4.address", "10.1.2.1/24"), ("ipv4.dhcp", "false")]).contains("dhcp-range"));
    }

    #[test]
    fn names_are_managed_unless_told_otherwise() {
        let net = ("ipv4.address", "10.1.2.1/24");
        assert!(text(&[net, ("dns.domain", "lab")]).contains("domain=lab\nlocal=/lab/\n"));
        assert!(text(&[net]).contains("dhcp-ignore-names\n"));
        assert!(!text(&[net, ("dns.mode", "dynamic")]).contains("dhcp-ignore-names"));
        assert!(text(&[net, ("dns.mode", "none")]).contains("port=0\n"));
    }
}
