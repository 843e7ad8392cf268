//! A daemon of the benchmark's own, on a directory of its own.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run;

/// How long a daemon may take to be ready, in seconds; generous, for it may run under emulation.
const PATIENCE: &str = "120";

/// A running daemon; it ends with this value, together with all it made.
pub struct Daemon {
    programs: PathBuf,
    dir: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    /// Starts the daemon that lies beside this program and waits until it is ready.
    pub fn start() -> Result<Self> {
        let own = std::env::current_exe().context("this program does not know its own path")?;
        let programs = own.parent().context("this program is in no directory")?.to_owned();
        // Short, because the paths of sockets may have 107 bytes only.
        let dir = tempfile::Builder::new().prefix("berth").tempdir()?;
        let log = File::create(dir.path().join("berthd.log"))?;
        let child = Command::new(programs.join("berthd"))
            .args(["serve", "--dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C ends this program, which then ends the daemon in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run berthd in {}; `cargo xtask build` makes it", programs.display()))?;
        let daemon = Self { programs, dir, child };
        let ready = run::output(
            Command::new(daemon.program("berthd"))
                .args(["waitready", "--timeout", PATIENCE, "--dir"])
                .arg(daemon.dir()),
        );
        ready.with_context(|| format!("berthd does not come up; its log:\n{}", daemon.log()))?;
        Ok(daemon)
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Path of one of Berth's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Runs a command of `berth`; gives its output.
    pub fn berth(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.program("berth"));
        run::output(command.args(arguments).env("BERTH_DIR", self.dir()).env("HOME", self.dir()))
    }

    /// Reads an object of the API.
    pub fn get(&self, path: &str) -> Result<Value> {
        let text = self.berth(&["query", path])?;
        serde_json::from_str(&text).with_context(|| format!("berth query {path} printed no JSON"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("berthd.log")).unwrap_or_default()
    }

    /// Deletes all instances and networks; they would outlive the daemon.
    fn remove_everything(&self) -> Result<()> {
        for instance in list(&self.get("/1.0/instances?recursion=1")?) {
            self.berth(&["delete", "--force", instance["name"].as_str().unwrap_or_default()])?;
        }
        if self.get("/1.0/profiles/default")?["devices"]["eth0"].is_object() {
            self.berth(&["profile", "device", "remove", "default", "eth0"])?;
        }
        for network in list(&self.get("/1.0/networks?recursion=1")?) {
            if network["managed"] == true {
                self.berth(&["network", "delete", network["name"].as_str().unwrap_or_default()])?;
            }
        }
        Ok(())
    }

    fn shut_down(&mut self) -> Result<()> {
        run::output(Command::new(self.program("berthd")).args(["shutdown", "--dir"]).arg(self.dir()))?;
        let status = self.child.wait().context("cannot wait for berthd")?;
        if !status.success() {
            bail!("berthd ended with {status}");
        }
        Ok(())
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let removed = self.remove_everything();
        if let Err(error) = removed.and_then(|()| self.shut_down()) {
            eprintln!("warning: something of the benchmark may be left: {error:#}\n--- log of berthd\n{}", self.log());
            // Ended already is as good.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
