//! What the tests of virtual machines share.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::{Daemon, daemon::SYSTEMD_IS_UP, programs};
use serde_json::Value;

/// Longest time from one sign of life of a guest to the next; generous, for the whole machine may be emulated.
const PATIENCE: Duration = Duration::from_secs(300);

/// A daemon that has the image `debian/12`.
pub fn daemon_with_debian() -> Daemon {
    let daemon = Daemon::start();
    daemon.import_debian("debian/12").ok();
    daemon
}

/// Status of an instance as `list` shows it.
pub fn status(daemon: &Daemon, name: &str) -> String {
    daemon.berth_args(["list", name, "--format", "csv", "--columns", "s"]).ok().trim().to_owned()
}

/// Tells what is tested now; shown when a test fails.
pub fn step(name: &str) {
    let uptime = std::fs::read_to_string("/proc/uptime").expect("proc is mounted");
    eprintln!("-- {name}, at {} s", uptime.split(' ').next().unwrap_or_default());
}

/// Runs a shell script in an instance, which must succeed.
#[track_caller]
pub fn sh(daemon: &Daemon, name: &str, script: &str) -> String {
    daemon.berth_args(["exec", name, "--", "sh", "-c", script]).ok()
}

/// Waits until the system in an instance is up and has its addresses.
#[track_caller]
pub fn wait_booted(daemon: &Daemon, name: &str) {
    let script = format!("{SYSTEMD_IS_UP}; systemctl --failed --no-legend; /lib/systemd/systemd-networkd-wait-online");
    assert_eq!(sh(daemon, name, &script), "running\n");
}

/// Lifecycle events of a daemon.
pub struct Events {
    monitor: Child,
    actions: mpsc::Receiver<(String, String)>,
}

impl Events {
    /// Watches from now on.
    pub fn watch(daemon: &Daemon) -> Self {
        let mut monitor = Command::new(programs().join("berth"))
            .args(["monitor", "--type", "lifecycle", "--format", "json"])
            .env("BERTH_DIR", daemon.dir())
            .env("HOME", daemon.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("berth can be started");
        let stdout = monitor.stdout.take().expect("it is piped");
        let (sender, actions) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
                let text = |key: &str| event["metadata"][key].as_str().unwrap_or_default().to_owned();
                let _ = sender.send((text("action"), text("source")));
            }
        });
        let events = Self { monitor, actions };
        // Nothing tells that the monitor listens but an event that it shows.
        loop {
            daemon.berth("profile create heard").ok();
            daemon.berth("profile delete heard").ok();
            if events.actions.recv_timeout(Duration::from_secs(1)).is_ok() {
                return events;
            }
        }
    }

    /// Waits for an action on an instance; earlier events are passed over.
    #[track_caller]
    pub fn wait_for(&self, action: &str, instance: &str) {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match self.actions.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok((what, source)) if what == action && source.ends_with(&format!("/{instance}")) => return,
                Ok(other) => seen.push(other),
                Err(e) => panic!("no {action} of {instance} came ({e}), but {seen:?}"),
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}
