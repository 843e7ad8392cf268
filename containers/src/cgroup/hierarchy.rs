//! The hierarchies of the host and what differs between the versions.

use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{BASE, WANTED, read, write};
use crate::error::{Context, Error, Result};
use crate::spec::IdMap;

/// How long freezing may take before it is undone and refused.
const FREEZE_TIME: Duration = Duration::from_secs(5);

/// Version of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One of several, each with its controllers.
    One,
    /// The unified one.
    Two,
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub root: PathBuf,
    /// See [`Version`].
    pub version: Version,
    /// Its controllers; `name=...` for a named one without.
    pub controllers: Vec<String>,
}

/// Reads `/proc/self/mountinfo`.
pub(super) fn parse(table: &str) -> Result<Vec<Hierarchy>> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in table.lines() {
        let Some((mount, source)) = line.split_once(" - ") else { continue };
        let mount: Vec<_> = mount.split(' ').collect();
        let source: Vec<_> = source.split(' ').collect();
        let ([_, _, _, "/", at, ..], [kind, _, options]) = (mount.as_slice(), source.as_slice()) else { continue };
        let root = PathBuf::from(at);
        let hierarchy = match *kind {
            "cgroup2" => {
                let controllers = read(&root.join("cgroup.controllers")).unwrap_or_default();
                let controllers = controllers.split_whitespace().map(str::to_owned).collect();
                Hierarchy { root, version: Version::Two, controllers }
            }
            "cgroup" => {
                let ignored = ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode"];
                let controllers = options
                    .split(',')
                    .filter(|option| !ignored.contains(option) && !option.starts_with("release_agent="))
                    .map(str::to_owned)
                    .collect();
                Hierarchy { root, version: Version::One, controllers }
            }
            _ => continue,
        };
        let twice = |other: &Hierarchy| {
            other.version == hierarchy.version
                && (hierarchy.version == Version::Two || other.controllers == hierarchy.controllers)
        };
        if !found.iter().any(twice) {
            found.push(hierarchy);
        }
    }
    if found.is_empty() {
        return Err(Error::Unsupported(
            "no cgroup hierarchy is mounted on this host; mount cgroup2 at /sys/fs/cgroup".into(),
        ));
    }
    Ok(found)
}

impl Hierarchy {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// Whether a container's init makes cgroups here.
    pub(super) fn is_delegated(&self) -> bool {
        self.version == Version::Two || self.has("name=systemd")
    }

    /// Keeps other monitors from making or removing the directory of all containers, until it is dropped. A
    /// container cannot hold it: the root it sees is another directory.
    pub(super) fn lock(&self) -> Result<fs::File> {
        let root = fs::File::open(&self.root).with_context(|| format!("open {}", self.root.display()))?;
        rustix::fs::flock(&root, rustix::fs::FlockOperation::LockExclusive)
            .with_context(|| format!("lock {}", self.root.display()))?;
        Ok(root)
    }

    /// Makes the directory of all containers.
    pub(super) fn prepare_base(&self) -> Result<()> {
        let base = self.root.join(BASE);
        match fs::create_dir(&base) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e).with_context(|| format!("make the cgroup {}", base.display())),
        }
        match self.version {
            Version::One if self.has("cpuset") => {
                // A cpuset without CPUs or memory takes no process. With clone_children all below begin full.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if read(&base.join(file)).is_some_and(|text| text.is_empty()) {
                        let all = read(&self.root.join(file)).unwrap_or_default();
                        write(&base.join(file), &all)?;
                    }
                }
                write(&base.join("cgroup.clone_children"), "1")
            }
            Version::One => Ok(()),
            Version::Two => {
                self.hand_on(&self.root);
                self.hand_on(&base);
                Ok(())
            }
        }
    }

    /// Version 2: lets the children of `path` have controllers.
    pub(super) fn hand_on(&self, path: &Path) {
        if self.version == Version::One {
            return;
        }
        let file = path.join("cgroup.subtree_control");
        let now = read(&file).unwrap_or_default();
        for controller in WANTED.iter().filter(|c| self.has(c) && !now.split(' ').any(|have| have == **c)) {
            // The kernel may refuse one, as that of CPU time while real-time processes are about. A container that has
            // no limit of that kind starts all the same; for another the limit's file is missing, which is told.
            let _ = write(&file, &format!("+{controller}"));
        }
    }

    /// Gives the directory and the process lists to the container's root.
    pub(super) fn delegate(&self, path: &Path, map: IdMap) -> Result<()> {
        let own = |path: &Path| chown(path, Some(map.base), Some(map.base));
        own(path).with_context(|| format!("give {} to the container", path.display()))?;
        let listed;
        let files: Vec<&str> = match self.version {
            Version::One => vec!["cgroup.procs", "tasks"],
            Version::Two => {
                listed = fs::read_to_string("/sys/kernel/cgroup/delegate").unwrap_or_default();
                ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"].into_iter().chain(listed.lines()).collect()
            }
        };
        for file in files {
            match own(&path.join(file)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.with_context(|| format!("give {} to the container", path.join(file).display()))?,
            }
        }
        Ok(())
    }

    /// Whether the calling process is in the cgroup at `path`.
    pub(super) fn holds_self(&self, path: &Path) -> bool {
        let own = std::process::id().to_string();
        read(&path.join("cgroup.procs")).is_some_and(|list| list.lines().any(|pid| pid == own))
    }

    pub(super) fn freeze_v2(&self, payload: &Path, frozen: bool) -> Result<()> {
        let path = payload.join("cgroup.events");
        let events = fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let wanted = if frozen { "frozen 1" } else { "frozen 0" };
        write(&payload.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
        let deadline = Instant::now() + FREEZE_TIME;
        loop {
            if read(&path).unwrap_or_default().lines().any(|line| line == wanted) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                write(&payload.join("cgroup.freeze"), "0")?;
                return Err(not_frozen());
            }
            wait_for_event(&events, left).with_context(|| format!("wait for {}", path.display()))?;
        }
    }

    pub(super) fn freeze_v1(&self, payload: &Path, frozen: bool) -> Result<()> {
        let path = payload.join("freezer.state");
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        let deadline = Instant::now() + FREEZE_TIME;
        loop {
            // Written anew each time, for processes that were being made are only caught so.
            write(&path, wanted)?;
            if read(&path).is_some_and(|state| state == wanted) {
                return Ok(());
            }
            if Instant::now() > deadline {
                write(&path, "THAWED")?;
                return Err(not_frozen());
            }
            // Version 1 tells of no event here.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn not_frozen() -> Error {
    Error::Unsupported(
        "the container's processes did not stop in time and go on; one of them may wait for a device or a network \
         file system, try again"
            .into(),
    )
}

/// Waits until a `cgroup.events` file changes.
pub(super) fn wait_for_event(events: &fs::File, time: Duration) -> io::Result<()> {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    match poll(&mut [PollFd::new(events, PollFlags::PRI)], Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_understood() {
        let table = "\
30 23 0:26 / /x/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
31 23 0:27 / /x/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
32 23 0:28 / /x/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
33 23 0:28 / /y/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 23 0:29 /docker/x /z rw - cgroup cgroup rw,pids
35 23 0:30 / / rw - ext4 /dev/vda rw";
        let found = parse(table).unwrap();
        let roots: Vec<_> = found.iter().map(|h| h.root.to_str().unwrap()).collect();
        assert_eq!(roots, ["/x/unified", "/x/cpu,cpuacct", "/x/systemd"]);
        assert_eq!(found[1].controllers, ["cpu", "cpuacct"]);
        assert!(found[2].is_delegated() && !found[1].is_delegated());
        assert!(parse("").is_err());
    }
}
