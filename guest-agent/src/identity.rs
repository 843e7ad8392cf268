//! What makes a guest that goes on from the saved state of another one a guest of its own.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use berth_guest::protocol::Identity;

use crate::{hostname, links};

/// Names the installation to programs of it (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";
/// The same for D-Bus, where it is no link to the other.
const DBUS_MACHINE_ID: &str = "/var/lib/dbus/machine-id";
/// Secrets by which others know an SSH server.
const SSH: &str = "/etc/ssh";
/// There if systemd is process 1 (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// Services that hold on to what has changed: those that configure the network ask for other addresses.
const SERVICES: &[&str] =
    &["systemd-networkd.service", "NetworkManager.service", "networking.service", "systemd-journald.service"];
const SSH_SERVICES: &[&str] = &["ssh.service", "sshd.service"];
/// Where the programs are.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Does everything, whatever fails of it; tells what failed.
pub fn assume(identity: &Identity) -> Vec<String> {
    let mut failed = Vec::new();
    let mut step = |what: &str, outcome: io::Result<()>| {
        if let Err(e) = outcome {
            failed.push(format!("cannot {what}: {e}"));
        }
    };
    step("set its host name", hostname::set(&identity.hostname));
    step("renew its machine id", renew_machine_id());
    step("change its hardware addresses", change_addresses(&identity.hwaddrs));
    let ssh = renew_host_keys();
    let had_keys = matches!(ssh, Ok(true));
    step("renew its SSH host keys", ssh.map(drop));
    step("restart services", restart(SERVICES));
    if had_keys {
        step("restart its SSH server", restart(SSH_SERVICES));
    }
    failed
}

fn renew_machine_id() -> io::Result<()> {
    let mut id = [0; 16];
    rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
    // An id of version 4, as systemd makes them.
    (id[6], id[8]) = (id[6] & 0x0f | 0x40, id[8] & 0x3f | 0x80);
    let text: String = id.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect();
    for path in [MACHINE_ID, DBUS_MACHINE_ID].map(Path::new) {
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
            replace(path, &text)?;
        }
    }
    Ok(())
}

/// A reader sees the old file or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("berth-new");
    let mut file = File::create(&new)?;
    file.set_permissions(fs::Permissions::from_mode(0o444))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// In the order in which the host lists them.
fn change_addresses(addresses: &[[u8; 6]]) -> io::Result<()> {
    let interfaces = links::ethernet();
    if interfaces.len() < addresses.len() {
        let (there, wanted) = (interfaces.len(), addresses.len());
        return Err(io::Error::other(format!("there are {there} network interfaces for {wanted} addresses")));
    }
    for (interface, address) in interfaces.iter().zip(addresses) {
        links::down(interface)?;
        links::set_hardware_address(interface, *address)?;
        links::up(interface)?;
    }
    Ok(())
}

/// Replaces keys that were made before the state was saved, and which all that go on from it would share; tells whether
/// there were any.
fn renew_host_keys() -> io::Result<bool> {
    let Ok(entries) = fs::read_dir(SSH) else { return Ok(false) };
    let key = |name: &str| name.starts_with("ssh_host_") && (name.ends_with("_key") || name.ends_with("_key.pub"));
    let keys: Vec<_> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(key))
        .map(|entry| entry.path())
        .collect();
    if keys.is_empty() {
        return Ok(false);
    }
    for path in keys {
        fs::remove_file(path)?;
    }
    run(Command::new("ssh-keygen").arg("-A"))?;
    Ok(true)
}

/// Restarts those that run.
fn restart(services: &[&str]) -> io::Result<()> {
    if !Path::new(SYSTEMD).exists() {
        return Ok(());
    }
    // One line for each, also for one that does not exist, which the other verbs of systemctl refuse.
    let states = output(Command::new("systemctl").arg("is-active").args(services))?.stdout;
    let states = String::from_utf8_lossy(&states);
    let runs = |state: &str| matches!(state.trim(), "active" | "activating" | "reloading");
    let running = services.iter().zip(states.lines()).filter(|(_, state)| runs(state)).map(|(service, _)| service);
    let running: Vec<_> = running.collect();
    if running.is_empty() { Ok(()) } else { run(Command::new("systemctl").arg("restart").args(running)) }
}

fn output(command: &mut Command) -> io::Result<Output> {
    command.env("PATH", PATH).stdin(Stdio::null()).output()
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?} ended with {}: {}", output.status, said.trim())))
}
