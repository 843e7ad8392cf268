//! How a supervisor is recognised, and how the reason of its end is kept.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::protocol::Exit;

const IDENTITY: &str = "supervisor.json";
const EXIT: &str = "exit.json";

/// Identifies one process for good: a process id alone may be used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id.
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat` (proc(5)): start time in clock ticks since boot.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id` of the boot the process belongs to.
    pub boot_id: String,
}

impl Identity {
    /// The identity of process `pid`, if there is one.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            start_time: start_time(pid)?,
            boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        })
    }

    /// A pidfd of the process if it still is the one meant; `None` if that one is gone.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let fd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // The pidfd pins the process, so what is read now is either of it or of nobody.
        match Self::of(self.pid) {
            Ok(now) if now == *self => Ok(Some(fd)),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Kills the process if it still is the one meant.
    pub fn kill(&self) -> io::Result<()> {
        match self.open()? {
            None => Ok(()),
            Some(fd) => match rustix::process::pidfd_send_signal(fd, Signal::KILL) {
                Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
                Err(e) => Err(e.into()),
            },
        }
    }

    /// Writes this to the run directory.
    pub fn save(&self, run_dir: &Path) -> io::Result<()> {
        write_atomically(run_dir, IDENTITY, &serde_json::to_vec(self)?)
    }

    /// Reads it from the run directory; `None` if none was written.
    pub fn load(run_dir: &Path) -> io::Result<Option<Self>> {
        read_json(&run_dir.join(IDENTITY))
    }
}

/// Keeps the reason of the end for a daemon that was not there to hear it.
pub fn save_exit(run_dir: &Path, exit: &Exit) -> io::Result<()> {
    write_atomically(run_dir, EXIT, &serde_json::to_vec(exit)?)
}

/// The reason of the last end; `None` if the supervisor did not come to write one (it was killed, or runs).
pub fn load_exit(run_dir: &Path) -> io::Result<Option<Exit>> {
    read_json(&run_dir.join(EXIT))
}

fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in brackets, which may hold anything: count from its end.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is malformed")))
}

fn write_atomically(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.new"));
    fs::write(&temporary, bytes)?;
    fs::rename(temporary, dir.join(name))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ExitReason;

    #[test]
    fn a_process_is_known_again_and_a_dead_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        Identity::of(child.id()).unwrap().save(dir.path()).unwrap();
        let identity = Identity::load(dir.path()).unwrap().unwrap();
        assert!(identity.open().unwrap().is_some());
        let other = Identity { start_time: identity.start_time + 1, ..identity.clone() };
        assert!(other.open().unwrap().is_none(), "another start time is another process");
        identity.kill().unwrap();
        child.wait().unwrap();
        assert!(identity.open().unwrap().is_none());
    }

    #[test]
    fn the_exit_reason_survives() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_exit(dir.path()).unwrap().is_none());
        let exit = Exit { reason: ExitReason::Reboot, message: "the guest asked for it".into() };
        save_exit(dir.path(), &exit).unwrap();
        assert_eq!(load_exit(dir.path()).unwrap(), Some(exit));
    }
}
