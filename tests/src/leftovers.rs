//! Looking for what a daemon left behind.

use std::path::{Path, PathBuf};

use crate::run::Run;

/// What belongs to one daemon: all names it gave begin with or hold something that no other daemon's do.
pub struct Leftovers {
    dir: PathBuf,
    uuids: Vec<String>,
    links_before: Vec<String>,
}

impl Leftovers {
    /// Notes what the daemon on `dir` has now; [`Leftovers::check`] later expects none of it to be there.
    pub fn expect_none_of(dir: &Path) -> Self {
        let names = |sub: &str| -> Vec<String> {
            std::fs::read_dir(dir.join(sub))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        };
        let networks = names("networks");
        let uuids = names("run").into_iter().chain(names("logs")).collect();
        Self { dir: dir.to_owned(), uuids, links_before: networks }
    }

    /// Fails if anything is left.
    pub fn check(&self, log: &str) {
        let mut left = self.mounts();
        left.extend(self.processes());
        left.extend(self.cgroups(Path::new("/sys/fs/cgroup"), 0));
        left.extend(self.links());
        left.extend(self.files());
        assert!(left.is_empty(), "left behind:\n{}\n--- log ---\n{log}", left.join("\n"));
    }

    fn mounts(&self) -> Vec<String> {
        let text = std::fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
        let dir = self.dir.to_string_lossy().into_owned();
        text.lines().filter(|line| line.contains(&dir)).map(|line| format!("mount {line}")).collect()
    }

    fn processes(&self) -> Vec<String> {
        let dir = self.dir.to_string_lossy().into_owned();
        let own = std::process::id().to_string();
        std::fs::read_dir("/proc")
            .expect("proc is mounted")
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy() != own)
            .filter_map(|entry| {
                let command = std::fs::read(entry.path().join("cmdline")).ok()?;
                let command = String::from_utf8_lossy(&command).replace('\0', " ");
                command.contains(&dir).then(|| format!("process {} {command}", entry.file_name().to_string_lossy()))
            })
            .collect()
    }

    fn cgroups(&self, path: &Path, depth: usize) -> Vec<String> {
        /// Controllers, `berth`, the instance, what is in it.
        const DEEPEST: usize = 5;
        let mut left = Vec::new();
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if self.uuids.iter().any(|uuid| name.contains(uuid)) {
                left.push(format!("cgroup {}", entry.path().display()));
            } else if depth < DEEPEST {
                left.extend(self.cgroups(&entry.path(), depth + 1));
            }
        }
        left
    }

    fn links(&self) -> Vec<String> {
        let links = Run::new("ip", ["-o", "link"]).ok();
        let tables = Run::new("nft", ["list", "tables"]).ok();
        let mut left = Vec::new();
        for network in &self.links_before {
            left.extend(
                links.lines().filter(|line| line.contains(network.as_str())).map(|line| format!("link {line}")),
            );
            left.extend(
                tables.lines().filter(|line| line.contains(network.as_str())).map(|line| format!("nft {line}")),
            );
        }
        left
    }

    fn files(&self) -> Vec<String> {
        let mut left = Vec::new();
        for sub in
            ["run", "logs", "networks", "storage-pools/default/containers", "storage-pools/default/virtual-machines"]
        {
            for entry in std::fs::read_dir(self.dir.join(sub)).into_iter().flatten().flatten() {
                left.push(format!("file {}", entry.path().display()));
            }
        }
        left
    }
}
