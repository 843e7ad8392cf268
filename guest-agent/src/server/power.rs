//! Shutdown and reboot through the guest's init.

use std::{path::Path, process::Command};

use berth_guest::protocol::{ErrorKind, Reply};

use super::failure;

/// Where to turn.
#[derive(Debug, Clone, Copy)]
pub(super) enum Turn {
    /// Power off.
    Off,
    /// Reboot.
    Reboot,
}

impl Turn {
    /// The signal on which systemd starts `poweroff.target` or `reboot.target`: it needs neither a bus nor a program.
    fn systemd_signal(self) -> i32 {
        libc::SIGRTMIN() + if matches!(self, Self::Off) { 4 } else { 5 }
    }

    /// The signal on which the agent, where it serves as init, goes down.
    fn own_signal(self) -> i32 {
        if matches!(self, Self::Off) { libc::SIGUSR2 } else { libc::SIGTERM }
    }

    fn program(self) -> &'static str {
        if matches!(self, Self::Off) { "poweroff" } else { "reboot" }
    }
}

/// Tells the guest's init to turn the machine off or to reboot it.
pub(super) fn turn(turn: Turn) -> Reply {
    // The test by which systemd itself tells whether it was booted.
    let signal = if Path::new("/run/systemd/system").is_dir() {
        Some(turn.systemd_signal())
    } else {
        Path::new(super::INIT_MARK).exists().then(|| turn.own_signal())
    };
    if let Some(signal) = signal {
        // SAFETY: a plain system call without pointers.
        if unsafe { libc::kill(1, signal) } == 0 {
            return Reply::Done;
        }
        let text = format!("cannot tell init to {}: {}", turn.program(), std::io::Error::last_os_error());
        return Reply::Error(failure(ErrorKind::Other, text));
    }
    for directory in ["/sbin", "/usr/sbin", "/bin", "/usr/bin"] {
        let program = Path::new(directory).join(turn.program());
        if !program.exists() {
            continue;
        }
        return match Command::new(&program).output() {
            Ok(output) if output.status.success() => Reply::Done,
            Ok(output) => {
                let reason = String::from_utf8_lossy(&output.stderr);
                let text = format!("{} failed ({}): {}", program.display(), output.status, reason.trim());
                Reply::Error(failure(ErrorKind::Other, text))
            }
            Err(e) => Reply::Error(failure(ErrorKind::Other, format!("cannot run {}: {e}", program.display()))),
        };
    }
    let text = format!("the guest runs no systemd and has no program {:?}; stop it with force", turn.program());
    Reply::Error(failure(ErrorKind::NotSupported, text))
}
