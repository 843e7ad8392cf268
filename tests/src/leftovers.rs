//! Looking for what a daemon left behind.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::run::Run;

/// What belongs to one daemon and to no other, also of those that run at the same time.
pub struct Leftovers {
    dir: PathBuf,
    uuids: Vec<String>,
    /// Links by their indices and tables by their handles, because names are given again at once.
    network: Vec<String>,
}

impl Leftovers {
    /// Notes what the daemon on `dir` has now, besides the names of volumes it had; [`Leftovers::check`] later expects
    /// none of it to be there.
    pub(crate) fn expect_none_of(dir: &Path, volumes: Vec<String>) -> Self {
        let mut uuids = volumes;
        uuids.extend(names(&dir.join("run")));
        uuids.extend(names(&dir.join("logs")));
        let networks = names(&dir.join("networks"));
        let ours = |line: &String| {
            words(line).any(|word| networks.iter().any(|n| word == n || word.ends_with(&format!("_{n}"))))
        };
        let network = network_objects().into_iter().filter(ours).collect();
        Self { dir: dir.to_owned(), uuids, network }
    }

    /// Fails if anything is left.
    pub(crate) fn check(&self, log: &str) {
        let mut left = mounts(&self.dir);
        left.extend(loops_left(&self.dir));
        left.extend(processes(&self.dir).into_iter().map(|(pid, command)| format!("process {pid} {command}")));
        left.extend(cgroups(&self.uuids));
        left.extend(self.links());
        left.extend(self.files());
        assert!(left.is_empty(), "left behind:\n{}\n--- log ---\n{log}", left.join("\n"));
    }

    fn links(&self) -> Vec<String> {
        // State and attachment change: the first words are what tells.
        let id = |line: &String| words(line).take(3).collect::<Vec<_>>().join(" ");
        let present: Vec<String> = network_objects().iter().map(id).collect();
        self.network.iter().map(id).filter(|id| present.contains(id)).collect()
    }

    fn files(&self) -> Vec<String> {
        let pool = "storage-pools/default";
        let volumes =
            ["containers", "virtual-machines", "containers-snapshots", "virtual-machines-snapshots", ".pending"]
                .map(|sub| format!("{pool}/{sub}"));
        let mut left = Vec::new();
        for sub in ["run", "logs", "networks", "backups", "disks"].map(str::to_owned).iter().chain(&volumes) {
            left.extend(names(&self.dir.join(sub)).iter().map(|name| format!("file {sub}/{name}")));
        }
        let staging = names(&self.dir.join("images")).into_iter().filter(|name| name.starts_with('.'));
        left.extend(staging.map(|name| format!("file images/{name}")));
        left
    }
}

/// The cgroups of these instances.
pub(crate) fn cgroups(uuids: &[String]) -> Vec<String> {
    /// Controllers, `berth`, the instance, what is in it.
    const DEEPEST: usize = 5;
    fn below(path: &Path, uuids: &[String], depth: usize, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if uuids.iter().any(|uuid| name.contains(uuid)) {
                found.push(format!("cgroup {}", entry.path().display()));
            } else if depth < DEEPEST {
                below(&entry.path(), uuids, depth + 1, found);
            }
        }
    }
    let mut found = Vec::new();
    below(Path::new("/sys/fs/cgroup"), uuids, 0, &mut found);
    found
}

/// All links, as "12 eth0 ...", with the bridge they are on, and all tables, as "4 handle inet NAME".
fn network_objects() -> Vec<String> {
    let mut all: Vec<String> = Run::new("ip", ["-o", "link"]).ok().lines().map(str::to_owned).collect();
    let tables = Run::new("nft", ["-a", "list", "tables"]).ok();
    let table = |line: &str| line.split_once(" # handle ").map(|(table, handle)| format!("{handle} handle {table}"));
    all.extend(tables.lines().filter_map(table));
    all
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split([' ', '@', ':']).filter(|word| !word.is_empty())
}

/// Names in a directory, which may be missing.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

pub(crate) fn mounts(dir: &Path) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    let dir = dir.to_string_lossy().into_owned();
    text.lines().filter(|line| line.contains(&dir)).map(|line| format!("mount {line}")).collect()
}

/// Loop devices of files below the directory.
fn loops(dir: &Path) -> Vec<String> {
    let devices = std::fs::read_dir("/sys/block").expect("sys is mounted").flatten();
    let backed = devices.filter_map(|device| {
        let file = std::fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        Some((device.file_name(), file))
    });
    let ours = backed.filter(|(_, file)| file.contains(&*dir.to_string_lossy()));
    ours.map(|(device, file)| format!("loop device {} of {file}", device.display())).collect()
}

/// Those that stay. Whoever makes a mount namespace, as other tests do, has a copy of a mount for a while, which keeps its
/// device.
fn loops_left(dir: &Path) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let left = loops(dir);
        if left.is_empty() || begin.elapsed() > Duration::from_secs(30) {
            return left;
        }
        std::thread::yield_now();
    }
}

/// Ids and command lines of processes that were given the path.
pub fn processes(dir: &Path) -> Vec<(String, String)> {
    let dir = dir.to_string_lossy().into_owned();
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").expect("proc is mounted").flatten();
    entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(name, _)| *name != own && name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|(pid, path)| {
            let command = std::fs::read(path.join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            command.contains(&dir).then_some((pid, command))
        })
        .collect()
}

/// After a failure: removes what there is of a daemon that runs no more, as well as it can be done.
pub(crate) fn sweep(dir: &Path) {
    for (pid, _) in processes(dir) {
        let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
        // It may have ended.
        let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
    }
    for network in names(&dir.join("networks")) {
        // Either may be gone.
        let _ = Command::new("ip").args(["link", "delete", &network]).stderr(std::process::Stdio::null()).status();
        let tables = Command::new("nft").args(["list", "tables"]).output().map(|output| output.stdout);
        let tables = String::from_utf8_lossy(&tables.unwrap_or_default()).into_owned();
        for table in tables.lines().filter(|line| line.split([' ', ':']).any(|word| word.ends_with(&network))) {
            let words = table.split_whitespace().skip(1);
            let _ = Command::new("nft").args(["delete", "table"]).args(words).status();
        }
    }
    for mount in mounts(dir) {
        let _ = mount.split(' ').nth(5).map(|target| Command::new("umount").args(["--lazy", target]).status());
    }
}
