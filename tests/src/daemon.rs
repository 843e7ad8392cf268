//! A daemon on a private directory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::leftovers::Leftovers;
use crate::run::Run;

/// How long a daemon may take to be ready or to end, in seconds; generous, for it may run under emulation.
const PATIENCE: &str = "120";

/// A running daemon; [`Daemon::finish`] ends it and looks for leftovers.
pub struct Daemon {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Daemon {
    /// Starts a daemon on a fresh directory and waits until it is ready.
    pub fn start() -> Self {
        // Short, because the paths of sockets may have 107 bytes only.
        let dir = tempfile::Builder::new().prefix("berth").tempdir().expect("a directory can be made");
        let mut daemon = Self { dir, child: None };
        daemon.spawn();
        daemon
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts the daemon again after [`Daemon::kill`] or [`Daemon::stop`].
    pub fn spawn(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir().join("berthd.log"))
            .expect("the log can be opened");
        let child = Command::new(program("berthd"))
            .args(["serve", "--dir"])
            .arg(self.dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("berthd can be started; `cargo xtask build` makes it");
        self.child = Some(child);
        let ready = Run::new(
            program("berthd"),
            ["waitready", "--timeout", PATIENCE, "--dir"].map(PathBuf::from).iter().chain([&self.dir().to_owned()]),
        )
        .any();
        assert_eq!(ready.status, 0, "berthd is not ready: {}\n{}", ready.stderr, self.log());
    }

    /// Kills the daemon with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// Ends the daemon in order; instances go on.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        Run::new(program("berthd"), [Path::new("shutdown"), Path::new("--dir"), self.dir()]).ok();
        let status = child.wait().expect("a child can be waited for");
        assert!(status.success(), "berthd ended with {status}\n{}", self.log());
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("berthd.log")).unwrap_or_default()
    }

    /// A command of `berth`; words are separated by blanks.
    pub fn berth(&self, words: &str) -> Run {
        self.berth_args(words.split_whitespace())
    }

    /// A command of `berth` with arguments that may hold blanks.
    pub fn berth_args<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        Run::new(program("berth"), args).env("BERTH_DIR", self.dir()).env("HOME", self.dir())
    }

    /// A command of the real `lxc`; words are separated by blanks.
    pub fn lxc(&self, words: &str) -> Run {
        self.lxc_args(words.split_whitespace())
    }

    /// A command of the real `lxc` with arguments that may hold blanks.
    pub fn lxc_args<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        Run::new("lxc", args).env("LXD_DIR", self.dir()).env("HOME", self.dir())
    }

    /// Removes all instances and networks, ends the daemon and checks that nothing is left.
    pub fn finish(mut self) {
        let leftovers = Leftovers::expect_none_of(self.dir());
        self.remove_everything();
        self.stop();
        leftovers.check(&self.log());
    }

    fn remove_everything(&self) {
        let query = |path: &str| -> serde_json::Value {
            serde_json::from_str(&self.berth_args(["query", path]).ok()).expect("berth query prints JSON")
        };
        for instance in query("/1.0/instances?recursion=1").as_array().expect("a list") {
            self.berth_args(["delete", "--force", instance["name"].as_str().expect("a name")]).ok();
        }
        for network in query("/1.0/networks?recursion=1").as_array().expect("a list") {
            if network["managed"] == true {
                let devices = query("/1.0/profiles/default");
                if devices["devices"]["eth0"].is_object() {
                    self.berth("profile device remove default eth0").ok();
                }
                self.berth_args(["network", "delete", network["name"].as_str().expect("a name")]).ok();
            }
        }
    }
}

impl Drop for Daemon {
    /// After a failed test: ends the daemon and what runs under it, so that other tests are not disturbed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the daemon ---\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            if std::thread::panicking() {
                let names = self.berth("list --format csv --columns n").any().stdout;
                for name in names.lines() {
                    self.berth_args(["delete", "--force", name]).any();
                }
                self.berth("profile device remove default eth0").any();
                let networks = self.berth("network list --format csv").any().stdout;
                for line in networks.lines().filter(|line| line.contains(",YES,")) {
                    self.berth_args(["network", "delete", line.split(',').next().unwrap_or_default()]).any();
                }
            }
            // Gone already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Path of one of Berth's programs, which lie two folders above the test's own.
pub(crate) fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    own.ancestors().nth(2).expect("target/PROFILE/deps/TEST").join(name)
}
