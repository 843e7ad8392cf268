//! Process 1 of a root file system that has no init of its own, as most application images have none.
//!
//! It makes what programs expect of a running system, brings the network up, reaps orphans and goes down on the
//! signals that busybox's init knows.

mod dhcp;
mod network;
mod sys;

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use berth_agent::server::INIT_MARK;
use rustix::{
    mount::MountFlags,
    process::{WaitOptions, waitpid},
    system::RebootCommand,
};

use crate::log::Log;

/// How long programs may take to end by SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// File system, where, flags, options.
const MOUNTS: &[(&str, &str, MountFlags, &std::ffi::CStr)] = &[
    ("proc", "/proc", NO_PROGRAMS, c""),
    ("sysfs", "/sys", NO_PROGRAMS, c""),
    ("cgroup2", "/sys/fs/cgroup", NO_PROGRAMS, c"nsdelegate"),
    ("devpts", "/dev/pts", MountFlags::NOSUID.union(MountFlags::NOEXEC), c"gid=5,mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=1777"),
    ("tmpfs", "/run", MountFlags::NOSUID.union(MountFlags::NODEV), c"mode=755"),
];
const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
/// What the kernel's `/dev` lacks.
const LINKS: &[(&str, &str)] =
    &[("/proc/self/fd", "/dev/fd"), ("fd/0", "/dev/stdin"), ("fd/1", "/dev/stdout"), ("fd/2", "/dev/stderr")];

/// Serves as process 1 in the real root; does not return.
pub fn run(log: &Log) -> ! {
    log.line("the root has no init; the agent serves as init");
    // Before there is any other thread, so that all inherit it.
    let signals = sys::Signals::block();
    for (kind, place, flags, options) in MOUNTS {
        let made = fs::create_dir_all(place)
            .and_then(|()| rustix::mount::mount(*kind, *place, *kind, *flags, *options).map_err(io::Error::from));
        if let Err(e) = made {
            log.line(format_args!("cannot mount {place}: {e}"));
        }
    }
    for (target, link) in LINKS {
        // There already is as good.
        let _ = symlink(target, link);
    }
    if let Err(e) = fs::write(INIT_MARK, "") {
        log.line(format_args!("cannot write {INIT_MARK}, so that only the power goes off: {e}"));
    }
    network::bring_up(log);
    loop {
        match signals.wait() {
            sys::Event::ChildEnded => reap(),
            sys::Event::PowerOff => end(&signals, RebootCommand::PowerOff, log),
            sys::Event::Reboot => end(&signals, RebootCommand::Restart, log),
        }
    }
}

/// Takes the exit statuses of all that ended.
fn reap() {
    while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
}

fn end(signals: &sys::Signals, command: RebootCommand, log: &Log) -> ! {
    let deadline = Instant::now() + GRACE;
    sys::signal_all(libc::SIGTERM);
    loop {
        match waitpid(None, WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) if signals.wait_for_child(deadline.saturating_duration_since(Instant::now())) => {}
            // The time is over, or no child is left.
            _ => break,
        }
    }
    sys::signal_all(libc::SIGKILL);
    reap();
    rustix::fs::sync();
    if let Err(e) = rustix::mount::mount_remount(Path::new("/"), MountFlags::RDONLY, c"") {
        log.line(format_args!("cannot make the root read-only: {}", io::Error::from(e)));
    }
    let error = rustix::system::reboot(command);
    log.line(format_args!("cannot turn the machine off: {error:?}"));
    // The end of process 1 is a panic, which ends the machine.
    std::process::exit(1)
}
