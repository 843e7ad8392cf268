//! A container around busybox, and a client for its monitor.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use berth_containers::spec::{ContainerSpec, IdMap, Limits, Mount, Propagation};
use berth_guest::protocol::{ExecSpec, WindowSize};
use berth_supervisor::handshake::{PROTOCOL_VERSION, Proceed, Progress, Start};
use berth_supervisor::protocol::{Event, Exit, Reply, Request};
use berth_supervisor::record;
use berth_supervisor::transport::Endpoint;

/// Id of the container's root on the host.
pub const BASE: u32 = 1_000_000_000;

/// Init of the test containers: waits, halts on SIGPWR as it should, reboots on SIGUSR1.
const INIT: &str = r#"#!/bin/sh
trap 'poweroff -f' PWR
trap 'reboot -f' USR1
echo ready
while :; do sleep 1000 & wait $!; done
"#;

/// A directory with a root, a run directory and whatever a test adds. Removed when dropped.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The mapped users have to get through.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let place = Self { dir };
        let root = place.rootfs();
        for name in ["bin", "sbin", "etc", "tmp", "root", "proc", "sys", "dev", "run", "home/ann"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).expect("the package busybox-static is installed");
        let list = Command::new("/bin/busybox").arg("--list").output().unwrap();
        for name in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox") {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::write(root.join("sbin/init"), INIT).unwrap();
        fs::set_permissions(root.join("sbin/init"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n").unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nann:x:1000:\nsound:x:29:ann\n").unwrap();
        chown(root.join("home/ann"), Some(1000), Some(1000)).unwrap();
        fs::create_dir(place.run_dir()).unwrap();
        place
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn spec(&self) -> ContainerSpec {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        ContainerSpec {
            uuid: format!("{:016x}{:016x}", std::process::id(), number),
            name: "c1".into(),
            hostname: "inside".into(),
            rootfs: self.rootfs(),
            idmap: IdMap { base: BASE + number * 65536, size: 65536 },
            init: vec!["/sbin/init".into()],
            env: BTreeMap::new(),
            limits: Limits::default(),
            rlimits: BTreeMap::new(),
            devices: BTreeMap::new(),
            proxies: BTreeMap::new(),
            sysctls: BTreeMap::new(),
            nesting: false,
            console_log: self.path().join("console.log"),
            templates: None,
        }
    }
}

/// A plain mount.
pub fn mount(source: &Path, target: &str) -> Mount {
    Mount {
        source: source.to_owned(),
        target: target.into(),
        readonly: false,
        recursive: false,
        propagation: Propagation::Private,
        shift: false,
        required: true,
    }
}

/// A monitor of which the handshake has begun.
pub struct Starting {
    pub spec: ContainerSpec,
    pub run_dir: PathBuf,
    pub monitor: Child,
    pub handshake: Endpoint,
}

/// The binary under test with `socket` as descriptor 3.
pub fn spawn(arguments: &[&std::ffi::OsStr], socket: OwnedFd) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth-container"));
    command.args(arguments).stdin(Stdio::null());
    let number = socket.as_raw_fd();
    // SAFETY: only system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let result = if number == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(number, 3) };
            if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    command.spawn().unwrap()
}

impl Starting {
    pub fn new(place: &Place, spec: ContainerSpec) -> Self {
        let (handshake, remote) = Endpoint::pair().unwrap();
        let run_dir = place.run_dir();
        let monitor = spawn(&["monitor".as_ref(), "--run-dir".as_ref(), run_dir.as_os_str()], remote.into_fd());
        handshake.send(&Start { protocol: PROTOCOL_VERSION, spec: spec.clone() }, &[]).unwrap();
        Self { spec, run_dir, monitor, handshake }
    }

    /// Waits until everything is made.
    pub fn created(&self) -> Result<(u32, OwnedFd), String> {
        match self.handshake.recv().unwrap() {
            Some((Progress::Created { init_pid }, mut fds)) => Ok((init_pid.unwrap(), fds.remove(0))),
            Some((Progress::Failed { message }, _)) => Err(message),
            other => panic!("{other:?}"),
        }
    }

    /// Goes through with it.
    pub fn finish(self) -> Result<Running, String> {
        let (pid, _netns) = self.created()?;
        self.handshake.send(&Proceed, &[]).unwrap();
        match self.handshake.recv().unwrap() {
            Some((Progress::Running, _)) => {}
            Some((Progress::Failed { message }, _)) => return Err(message),
            other => panic!("{other:?}"),
        }
        Ok(Running { spec: self.spec, run_dir: self.run_dir, monitor: self.monitor, pid, ended: false })
    }
}

/// A running container. Dropped, it is killed, and must leave nothing.
pub struct Running {
    pub spec: ContainerSpec,
    pub run_dir: PathBuf,
    pub monitor: Child,
    pub pid: u32,
    pub ended: bool,
}

/// What a program did.
#[derive(Debug, PartialEq, Eq)]
pub struct Output {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Running {
    pub fn start(place: &Place) -> Self {
        Self::start_spec(place, place.spec())
    }

    pub fn start_spec(place: &Place, spec: ContainerSpec) -> Self {
        Starting::new(place, spec).finish().unwrap()
    }

    pub fn connect(&self) -> Endpoint {
        Endpoint::connect(&self.run_dir.join("control")).unwrap()
    }

    pub fn ask(&self, request: &Request) -> (Reply, Vec<OwnedFd>) {
        let connection = self.connect();
        connection.send(request, &[]).unwrap();
        connection.recv().unwrap().unwrap()
    }

    /// Changes it to `spec`.
    pub fn change(&self, spec: &ContainerSpec) -> Result<(), String> {
        match self.ask(&Request::Change(serde_json::to_value(spec).unwrap())) {
            (Reply::Done, _) => Ok(()),
            (Reply::Refused { message, .. }, _) => Err(message),
            other => panic!("{other:?}"),
        }
    }

    pub fn exec_spec(&self, command: &[&str]) -> ExecSpec {
        ExecSpec {
            command: command.iter().map(|s| (*s).to_owned()).collect(),
            env: [("PATH".to_owned(), "/bin:/sbin".to_owned())].into(),
            cwd: None,
            uid: 0,
            gid: 0,
            terminal: None,
        }
    }

    /// Begins a program on pipes; returns the connection and the read ends of stdout and stderr.
    pub fn begin(&self, spec: ExecSpec, input: OwnedFd) -> (Endpoint, fs::File, fs::File) {
        let connection = self.connect();
        let (out, out_remote) = rustix::pipe::pipe().unwrap();
        let (err, err_remote) = rustix::pipe::pipe().unwrap();
        connection.send(&Request::Exec(spec), &[input.as_fd(), out_remote.as_fd(), err_remote.as_fd()]).unwrap();
        (connection, out.into(), err.into())
    }

    /// Runs a program to its end.
    pub fn run(&self, spec: ExecSpec) -> Result<Output, Box<Reply>> {
        let input = fs::File::open("/dev/null").unwrap();
        let (connection, mut out, mut err) = self.begin(spec, input.into());
        match connection.recv().unwrap().unwrap() {
            (Reply::ExecStarted { .. }, _) => {}
            (other, _) => return Err(Box::new(other)),
        }
        let mut output = Output { status: 0, out: String::new(), err: String::new() };
        out.read_to_string(&mut output.out).unwrap();
        err.read_to_string(&mut output.err).unwrap();
        match connection.recv().unwrap().unwrap() {
            (Reply::ExecExited { status }, _) => output.status = status,
            (other, _) => return Err(Box::new(other)),
        }
        Ok(output)
    }

    /// Runs a shell script.
    pub fn sh(&self, script: &str) -> Output {
        self.run(self.exec_spec(&["sh", "-c", script])).unwrap()
    }

    /// The trimmed output of a script that must succeed.
    pub fn text(&self, script: &str) -> String {
        let output = self.sh(script);
        assert_eq!(output.status, 0, "{script}: {output:?}");
        output.out.trim().to_owned()
    }

    /// Begins a program on a terminal; returns connection and master.
    pub fn on_terminal(&self, mut spec: ExecSpec, size: WindowSize) -> (Endpoint, fs::File) {
        spec.terminal = Some(size);
        let connection = self.connect();
        connection.send(&Request::Exec(spec), &[]).unwrap();
        match connection.recv().unwrap().unwrap() {
            (Reply::ExecStarted { .. }, mut fds) => (connection, fds.remove(0).into()),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// A connection that is told of events.
    pub fn subscribe(&self) -> Endpoint {
        let connection = self.connect();
        connection.send(&Request::Subscribe, &[]).unwrap();
        assert!(matches!(connection.recv().unwrap(), Some((Reply::Status(_), _))));
        connection
    }

    /// Waits for the end and checks that nothing is left.
    pub fn ended(mut self, subscription: &Endpoint) -> Exit {
        let exit = loop {
            match subscription.recv::<Reply>().unwrap().expect("the end is told") {
                (Reply::Event(Event::Exited(exit)), _) => break exit,
                (Reply::Event(_), _) => {}
                other => panic!("{other:?}"),
            }
        };
        assert!(self.monitor.wait().unwrap().success());
        self.ended = true;
        assert_eq!(record::load_exit(&self.run_dir).unwrap().as_ref(), Some(&exit));
        assert_nothing_left(&self.spec, &self.run_dir);
        exit
    }

    pub fn kill(self) -> Exit {
        let subscription = self.subscribe();
        assert!(matches!(self.ask(&Request::Kill), (Reply::Done, _)));
        self.ended(&subscription)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let pid = rustix::process::Pid::from_child(&self.monitor);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = self.monitor.wait();
            if !std::thread::panicking() {
                assert_nothing_left(&self.spec, &self.run_dir);
            }
        }
    }
}

/// No cgroup, process, mount or socket of the container is left.
pub fn assert_nothing_left(spec: &ContainerSpec, run_dir: &Path) {
    assert!(!run_dir.join("control").exists());
    assert_eq!(cgroup_dirs(&spec.uuid), Vec::<PathBuf>::new());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(spec.rootfs.to_str().unwrap()), "a mount is left");
    for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if status.contains("State:\tZ") {
            // Dead; whoever inherited it from a killed monitor has yet to look.
            continue;
        }
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
        let range = spec.idmap.base..spec.idmap.base + spec.idmap.size;
        for uid in uids.split_whitespace().filter_map(|uid| uid.parse::<u32>().ok()) {
            assert!(!range.contains(&uid), "a process is left: {status}");
        }
    }
}

/// The container's directories in all hierarchies.
pub fn cgroup_dirs(uuid: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let roots = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let paths = roots.flat_map(|root| {
        let base = Path::new(root).join("berth");
        [base.join(uuid), base.join(format!("{uuid}.monitor"))]
    });
    paths.filter(|path| path.exists()).collect()
}

/// The directory of the container's limits for `controller`.
pub fn cgroup_of(spec: &ContainerSpec, controller: &str) -> PathBuf {
    let dirs: Vec<_> = cgroup_dirs(&spec.uuid).into_iter().filter(|dir| dir.extension().is_none()).collect();
    if let [only] = dirs.as_slice() {
        return only.clone();
    }
    let found = dirs.iter().find(|dir| {
        let hierarchy = dir.ancestors().nth(2).unwrap().file_name().unwrap().to_string_lossy();
        hierarchy.split(',').any(|name| name == controller)
    });
    found.unwrap_or_else(|| panic!("{controller}: {dirs:?}")).clone()
}
