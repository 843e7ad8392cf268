//! A daemon on a private directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::images::{busybox_image, debian_image};
use crate::leftovers::{Leftovers, sweep};
use crate::run::{Run, ends, ends_first};
use crate::watch::Watch;

/// How long a daemon may take to be ready or to end, in seconds; generous, for it may run under emulation.
const PATIENCE: &str = "120";
/// Shell words that wait in a guest until systemd answers on its bus, which may be later than programs can be run, and
/// then until it has started everything; prints its state.
pub(crate) const SYSTEMD_IS_UP: &str =
    "busctl --watch-bind=yes status org.freedesktop.systemd1 >/dev/null; systemctl is-system-running --wait";

/// A running daemon; [`Daemon::finish`] ends it and looks for leftovers.
pub struct Daemon {
    /// Removed last.
    _own_dir: Option<tempfile::TempDir>,
    dir: PathBuf,
    programs: PathBuf,
    wrapper: Vec<OsString>,
    child: Option<Child>,
    /// Where volumes appear, which have the names that cgroups and run directories have too.
    volumes: Vec<Watch>,
    /// What they saw so far.
    seen: Mutex<Vec<String>>,
}

/// How a daemon is started, for tests that need it otherwise than usual.
#[derive(Default)]
pub struct Setup {
    dir: Option<PathBuf>,
    programs: Option<PathBuf>,
    wrapper: Vec<OsString>,
}

impl Setup {
    /// On this directory, which the caller removes, after the daemon.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// With the programs of this directory.
    pub fn programs(mut self, programs: impl Into<PathBuf>) -> Self {
        self.programs = Some(programs.into());
        self
    }

    /// By a shell script that ends with `exec "$@"`, in a mount namespace of its own.
    pub fn in_own_mounts(mut self, script: &str) -> Self {
        self.wrapper = ["unshare", "--mount", "sh", "-e", "-c", script, "sh"].map(OsString::from).to_vec();
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Daemon {
        // Short, because the paths of sockets may have 107 bytes only.
        let make = || tempfile::Builder::new().prefix("berth").tempdir().expect("a directory can be made");
        let own_dir = self.dir.is_none().then(make);
        let dir = self.dir.or_else(|| own_dir.as_ref().map(|dir| dir.path().to_owned())).expect("one of them");
        let mut daemon = Daemon {
            _own_dir: own_dir,
            dir,
            programs: self.programs.unwrap_or_else(programs),
            wrapper: self.wrapper,
            child: None,
            volumes: Vec::new(),
            seen: Mutex::default(),
        };
        daemon.spawn();
        let volumes = ["containers", "virtual-machines"].map(|kind| daemon.volume_dir(kind));
        daemon.volumes = volumes.iter().map(Watch::on).collect();
        daemon
    }
}

impl Daemon {
    /// Starts a daemon on a fresh directory and waits until it is ready.
    pub fn start() -> Self {
        Setup::default().start()
    }

    /// The same, with the image `busybox`.
    pub fn with_busybox() -> Self {
        let daemon = Self::start();
        daemon.import_busybox();
        daemon
    }

    /// Takes the image `busybox` in.
    pub fn import_busybox(&self) {
        let work = tempfile::tempdir().expect("a directory can be made");
        let image = busybox_image(work.path());
        self.berth_args(["image", "import", image.to_str().expect("it is ASCII"), "--alias", "busybox"]).ok();
    }

    /// Takes the Debian image in.
    pub fn import_debian(&self, alias: &str) -> Run {
        let (metadata, rootfs) = debian_image();
        let files = [&metadata, &rootfs].map(|path| path.to_str().expect("it is ASCII").to_owned());
        self.berth_args(["image", "import", &files[0], &files[1], "--alias", alias])
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Directory of the default pool that holds volumes of a kind: `containers` or `virtual-machines`.
    pub fn volume_dir(&self, kind: &str) -> PathBuf {
        self.dir.join("storage-pools/default").join(kind)
    }

    /// Starts the daemon again after [`Daemon::kill`] or [`Daemon::stop`].
    pub fn spawn(&mut self) {
        self.spawn_only();
        let ready = self.wait_ready().any();
        assert_eq!(ready.status, 0, "berthd is not ready: {}\n{}", ready.stderr, self.log());
    }

    fn spawn_only(&mut self) {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("the log can be opened");
        let berthd = self.programs.join("berthd").into_os_string();
        let mut words = self.wrapper.iter().chain([&berthd]);
        let child = Command::new(words.next().expect("there is one"))
            .args(words)
            .args(["serve", "--dir"])
            .arg(&self.dir)
            .env(berth_store::step::VARIABLE, self.steps_dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("berthd can be started; `cargo xtask build` makes it");
        self.child = Some(child);
    }

    /// The same, unless the daemon dies at a step that was chosen; tells which. Otherwise it lives on, and what it starts
    /// by itself runs when this returns.
    pub fn spawn_or_die(&mut self) -> Option<String> {
        let run = self.dir.join("run");
        std::fs::create_dir_all(&run).expect("a directory can be made");
        let watch = Watch::on(&run);
        self.spawn_only();
        let (mut command, _) = self.wait_ready().into_command();
        let mut waiting = command.stderr(Stdio::null()).spawn().expect("berthd can be started");
        let ready = ends_first(&waiting, self.child.as_ref().expect("the daemon runs"));
        // It may have ended just now.
        let _ = waiting.kill();
        let status = waiting.wait().expect("a child can be waited for");
        if !ready {
            return Some(self.death().unwrap_or_else(|| panic!("berthd ended by itself\n{}", self.log())));
        }
        assert!(status.success(), "berthd is not ready\n{}", self.log());
        if let Some(step) = self.death() {
            return Some(step);
        }
        self.await_autostart(&watch);
        None
    }

    /// Waits until the instances run that the daemon starts by itself; `watch` has seen their directories appear.
    fn await_autostart(&self, watch: &Watch) {
        for instance in self.get("/1.0/instances?recursion=1&all-projects=true").as_array().expect("a list") {
            let config = &instance["config"];
            let waits = instance["status"] == "Stopped" && config["volatile.last_state.power"] == "RUNNING";
            if waits {
                let uuid = config["volatile.uuid"].as_str().expect("it has one").replace('-', "");
                while !watch.entry().ends_with(&uuid) {}
            }
            if waits || instance["status"] == "Starting" {
                // Its owner does one thing after the other: this fails once it runs.
                let name = instance["name"].as_str().expect("it has one");
                let project = instance["project"].as_str().expect("it has one");
                self.berth_args(["--project", project, "start", name]).any();
            }
        }
    }

    /// Notes that the daemon has ended.
    pub(crate) fn reap(&mut self) {
        let mut child = self.child.take().expect("the daemon ran");
        child.wait().expect("a child can be waited for");
    }

    /// Names of all volumes of instances that there have been so far.
    pub(crate) fn seen(&self) -> Vec<String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(self.volumes.iter().flat_map(Watch::names));
        seen.clone()
    }

    fn wait_ready(&self) -> Run {
        Run::new(self.programs.join("berthd"), ["waitready", "--timeout", PATIENCE]).env("BERTH_DIR", &self.dir)
    }

    /// Kills the daemon with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// Ends the daemon in order; instances go on.
    pub fn stop(&mut self) {
        self.shut_down(&["shutdown"]);
    }

    /// Ends the daemon and all instances, as when the host goes down.
    pub fn stop_with_instances(&mut self) {
        self.shut_down(&["shutdown", "--instances"]);
    }

    fn shut_down(&mut self, words: &[&str]) {
        let Some(mut child) = self.child.take() else { return };
        Run::new(self.programs.join("berthd"), words).env("BERTH_DIR", &self.dir).ok();
        assert!(ends(&child), "berthd does not end\n{}", self.log());
        let status = child.wait().expect("a child can be waited for");
        assert!(status.success(), "berthd ended with {status}\n{}", self.log());
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the daemon runs").id()
    }

    /// What the daemon logged. The log lies beside its directory, which may have no space left.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// A command of `berth`; words are separated by blanks.
    pub fn berth(&self, words: &str) -> Run {
        self.berth_args(words.split_whitespace())
    }

    /// A command of `berth` with arguments that may hold blanks.
    pub fn berth_args<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        Run::new(program("berth"), args).env("BERTH_DIR", &self.dir).env("HOME", &self.dir)
    }

    /// A command of the real `lxc`; words are separated by blanks.
    pub fn lxc(&self, words: &str) -> Run {
        self.lxc_args(words.split_whitespace())
    }

    /// A command of the real `lxc` with arguments that may hold blanks.
    pub fn lxc_args<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        Run::new("lxc", args).env("LXD_DIR", &self.dir).env("HOME", &self.dir)
    }

    /// What the daemon answers to `GET path`.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.berth_args(["query", path]).json()
    }

    /// One instance as the API shows it.
    #[track_caller]
    pub fn instance(&self, name: &str) -> Value {
        self.get(&format!("/1.0/instances/{name}"))
    }

    /// Waits until the systemd of a container is up.
    #[track_caller]
    pub fn wait_booted(&self, name: &str) {
        let said = self.berth_args(["exec", name, "--", "sh", "-c", SYSTEMD_IS_UP]).any();
        let failed = || self.berth_args(["exec", name, "--", "systemctl", "--failed", "--no-legend"]).any().stdout;
        assert_eq!(said.stdout, "running\n", "{said:?}\n{}", failed());
    }

    /// Process that `info` shows for an instance.
    #[track_caller]
    pub fn instance_pid(&self, name: &str) -> i64 {
        self.get(&format!("/1.0/instances/{name}/state"))["pid"].as_i64().expect("pid is a number")
    }

    /// Run directory of an instance.
    #[track_caller]
    pub fn run_dir(&self, name: &str) -> PathBuf {
        let uuid = self.instance(name)["config"]["volatile.uuid"].as_str().expect("it has a uuid").replace('-', "");
        self.dir.join("run").join(uuid)
    }

    /// Process that holds a running instance.
    #[track_caller]
    pub fn supervisor(&self, name: &str) -> rustix::process::Pid {
        let text = std::fs::read(self.run_dir(name).join("supervisor.json")).expect("it runs");
        let record: Value = serde_json::from_slice(&text).expect("it is JSON");
        let pid = record["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.and_then(rustix::process::Pid::from_raw).expect("pid is a number")
    }

    /// Names of the managed networks.
    pub fn networks(&self) -> Vec<String> {
        let networks = self.get("/1.0/networks?recursion=1");
        let managed = networks.as_array().expect("a list").iter().filter(|network| network["managed"] == true);
        managed.map(|network| network["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Links that hang on the managed networks now: those of instances.
    pub fn ports(&self) -> Vec<String> {
        let links = |network| Run::new("ip", ["-o", "link", "show", "master", network]).ok();
        self.networks()
            .iter()
            .flat_map(|network| links(network).lines().map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// Removes all instances and networks, ends the daemon and checks that nothing is left.
    pub fn finish(mut self) {
        let leftovers = Leftovers::expect_none_of(&self.dir, self.seen());
        self.remove_everything();
        self.wait_for_removals();
        self.stop();
        leftovers.check(&self.log());
    }

    /// Large trees are removed in the background; the next start would do what is not done when the daemon ends.
    pub(crate) fn wait_for_removals(&self) {
        let images = self.dir.join("images");
        let watch = Watch::on(&images);
        let left = crate::leftovers::names(&images);
        for name in left.iter().filter(|name| name.starts_with('.')) {
            watch.left(name);
        }
    }

    fn remove_everything(&self) {
        for instance in self.get("/1.0/instances?recursion=1&all-projects=true").as_array().expect("a list") {
            let (name, project) = (instance["name"].as_str(), instance["project"].as_str());
            let (name, project) = (name.expect("a name"), project.expect("a project"));
            self.berth_args(["--project", project, "delete", "--force", name]).ok();
        }
        self.remove_networks();
    }

    /// Removes all networks, which no instance uses.
    pub fn remove_networks(&self) {
        for network in self.networks() {
            if self.get("/1.0/profiles/default")["devices"]["eth0"]["network"] == *network {
                self.berth("profile device remove default eth0").ok();
            }
            self.berth_args(["network", "delete", &network]).ok();
        }
    }
}

impl Drop for Daemon {
    /// After a failed test: ends the daemon and what runs under it, so that other tests are not disturbed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the daemon on {} ---\n{}", self.dir.display(), self.log());
            if self.child.is_none() {
                self.spawn_only();
                self.wait_ready().any();
            }
        }
        if let Some(mut child) = self.child.take() {
            let names = self.berth("list --all-projects --format csv --columns en").any().stdout;
            for (project, name) in names.lines().filter_map(|line| line.split_once(',')) {
                self.berth_args(["--project", project, "delete", "--force", name]).any();
            }
            // Gone already is as good.
            let _ = child.kill();
            let _ = child.wait();
            sweep(&self.dir);
        }
        // There may be none.
        let _ = std::fs::remove_file(self.log_path());
        let _ = std::fs::remove_dir_all(self.steps_dir());
    }
}

/// Directory of Berth's programs: two folders above the test's own.
pub fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    own.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_owned()
}

/// Path of one of Berth's programs.
pub(crate) fn program(name: &str) -> PathBuf {
    programs().join(name)
}
