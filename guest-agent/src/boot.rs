//! As process 1: starts the agent and hands over to the image.

use std::{
    fs,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, ExitCode},
};

use berth_agent::initrd;
use berth_guest::protocol::USER_SPACE_MARK;
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::{Errno, FdFlags},
    mount::{MountFlags, UnmountFlags},
};

use crate::{direct, log::Log};

/// First argument of the agent itself; its descriptors of proc and log follow.
pub const AGENT_MODE: &str = "agent";
/// A name with `@` first is spared when a systemd of the initrd ends all processes at the switch of roots.
const AGENT_NAME: &str = "@berth-agent";
/// The image's own init in the initrd.
const INIT: &str = "/init";
/// Directory of the agent's own things in the initrd.
const DIRECTORY: &str = "/berth";

/// Does all that is to be done before the image's own init runs, and becomes that.
pub fn run() -> ExitCode {
    let directory = Path::new(DIRECTORY);
    let log = Log::open(&directory.join("kmsg"));
    log.mark(USER_SPACE_MARK);
    // An image must boot without an agent too.
    let proc = match own_proc(&directory.join("proc")) {
        Ok(proc) => {
            insert_modules(&log);
            if let Err(e) = start_agent(&proc, &log) {
                log.line(format_args!("cannot start the agent: {e}"));
            }
            Some(proc)
        }
        Err(e) => {
            log.line(format_args!("cannot mount proc, so that there will be no agent: {e}"));
            None
        }
    };
    // They take memory for as long as the initrd lives.
    let _ = fs::remove_dir_all(directory);
    let _ = fs::remove_file(initrd::AGENT);
    if let Some(proc) = proc
        && !Path::new(INIT).exists()
    {
        let error = direct::boot(&proc, &log);
        return fail(&log, &format!("cannot boot the root disk: {error}"));
    }
    let error = Command::new(INIT).args(std::env::args_os().skip(1)).exec();
    fail(&log, &format!("cannot run the initrd's {INIT}: {error}"))
}

/// Tells why; the end of process 1 is then a kernel panic, which the host sees.
fn fail(log: &Log, text: &str) -> ExitCode {
    log.line(text);
    let _ = writeln!(io::stderr(), "berth-agent: {text}");
    ExitCode::FAILURE
}

/// A proc file system that nobody can move away or cover: it is mounted nowhere, only this descriptor holds it.
fn own_proc(mount_point: &Path) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::mkdirat(CWD, mount_point, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", mount_point, "proc", flags, None)?;
    let proc = rustix::fs::openat(CWD, mount_point, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    rustix::mount::unmount(mount_point, UnmountFlags::DETACH)?;
    proc
}

fn insert_modules(log: &Log) {
    let Ok(entries) = fs::read_dir(initrd::MODULES) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let inserted = rustix::fs::openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::system::finit_module(file, c"", 0));
        match inserted {
            // One built into the kernel, or inserted for another one already.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => log.line(format_args!("cannot insert {}: {}", path.display(), io::Error::from(e))),
        }
    }
}

fn start_agent(proc: &OwnedFd, log: &Log) -> io::Result<()> {
    let log = log.fd().ok_or(io::ErrorKind::NotFound)?;
    // Copies, so that the image's init does not inherit them.
    let copies = [proc.try_clone()?, log.try_clone()?];
    for copy in &copies {
        rustix::io::fcntl_setfd(copy.as_fd(), FdFlags::empty())?;
    }
    let [proc, log] = copies.each_ref().map(|copy| copy.as_raw_fd().to_string());
    Command::new(initrd::AGENT).arg0(AGENT_NAME).args([AGENT_MODE, &proc, &log]).spawn()?;
    Ok(())
}

/// Takes over a descriptor that process 1 passed by its number.
pub fn inherited(number: &str) -> Option<OwnedFd> {
    let number: RawFd = number.parse().ok().filter(|&number| number > 2)?;
    // SAFETY: the descriptor was made for this process, which asks for each number once; one that is not open is
    // found by the next call.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC) {
        Ok(()) => Some(fd),
        Err(_) => {
            // It must not be closed, since it is not open.
            std::mem::forget(fd);
            None
        }
    }
}
