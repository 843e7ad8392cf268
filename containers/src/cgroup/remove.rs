//! Removal of a tree of cgroups.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::{Version, hierarchy, read};
use crate::error::{Context, Result};

/// How long processes may take to die.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes the cgroup at `path` with all below; one that is not there is as good.
pub(super) fn tree(path: &Path, version: Version) -> Result<()> {
    match fs::remove_dir(path) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        kill_all(path, version);
        let result = remove_below(path).and_then(|()| fs::remove_dir(path));
        match result {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                wait_for_change(path, version, deadline);
            }
            Err(e) => return Err(e).with_context(|| format!("remove the cgroup {}", path.display())),
        }
    }
}

fn wait_for_change(path: &Path, version: Version, deadline: Instant) {
    if version == Version::Two
        && let Ok(events) = File::open(path.join("cgroup.events"))
        && read(&path.join("cgroup.events")).is_some_and(|text| text.contains("populated 1"))
    {
        let _ = hierarchy::wait_for_event(&events, deadline.saturating_duration_since(Instant::now()));
        return;
    }
    // Version 1 tells nobody when a dying process has left; it takes microseconds.
    std::thread::sleep(Duration::from_millis(2));
}

/// Kills what still runs in it: the rest of a container whose monitor was killed.
fn kill_all(path: &Path, version: Version) {
    if version == Version::Two && fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // What waits in a frozen cgroup cannot die.
    let _ = fs::write(path.join("payload/freezer.state"), "THAWED");
    let own = std::process::id() as i32;
    for dir in [path.to_owned(), path.join("payload")] {
        let list = read(&dir.join("cgroup.procs")).unwrap_or_default();
        for pid in list.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid != own) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Removes all directories below `path`, deepest first. The container may have nested them deeper than paths,
/// descriptors or a stack go, so one handle walks down and up again.
fn remove_below(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(path, flags, Mode::empty())?;
    let mut depth = 0usize;
    // The directory just emptied: if it still cannot be removed, it holds processes.
    let mut emptied: Option<CString> = None;
    let mut way: Vec<CString> = Vec::new();
    loop {
        match next_child(&at)? {
            None if depth == 0 => return Ok(()),
            None => {
                at = openat(&at, c"..", flags, Mode::empty())?;
                depth -= 1;
                emptied = way.pop();
            }
            Some(child) => match unlinkat(&at, &child, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => emptied = None,
                Err(Errno::BUSY | Errno::NOTEMPTY) if emptied.as_ref() != Some(&child) => {
                    at = openat(&at, &child, flags, Mode::empty())?;
                    depth += 1;
                    way.push(child);
                    emptied = None;
                }
                Err(e) => return Err(e.into()),
            },
        }
    }
}

/// Some directory in `dir`.
fn next_child(dir: &OwnedFd) -> io::Result<Option<CString>> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if entry.file_type() == rustix::fs::FileType::Directory && name != c"." && name != c".." {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}
