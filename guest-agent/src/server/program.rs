//! Starts programs.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use berth_guest::protocol::{ErrorKind, ExecSpec, GuestError, WindowSize};
use rustix::{
    fs::{CWD, Gid, Mode, OFlags, Uid},
    process::{Pid, PidfdFlags},
    pty::OpenptFlags,
    termios::Winsize,
};

use super::{accounts, failure};

/// Where programs are looked for if the environment says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that was started.
#[derive(Debug)]
pub(super) struct Program {
    pub child: Child,
    /// Becomes readable when the program ends.
    pub pidfd: OwnedFd,
    /// Where its input goes.
    pub stdin: Option<OwnedFd>,
    /// Where its output and error output come from.
    pub outputs: [Option<OwnedFd>; 2],
    /// The master side of its terminal; another descriptor of the same terminal is `stdin` and the first output.
    pub terminal: Option<OwnedFd>,
}

impl Program {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

/// Starts a program as its own session.
pub(super) fn start(spec: &ExecSpec) -> Result<Program, GuestError> {
    let account = accounts::look_up(spec.uid);
    let (cwd, directory) = working_directory(spec, account.home)?;
    let name = spec.command.first().ok_or_else(|| failure(ErrorKind::Invalid, "the command is empty"))?;
    let path = find(name, spec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str), &cwd)?;
    let mut command = Command::new(path);
    command.arg0(name).args(&spec.command[1..]).env_clear().envs(&spec.env);
    let terminal = spec.terminal.map(|size| open_terminal(size, spec.uid)).transpose();
    let terminal =
        terminal.map_err(|e| failure(ErrorKind::Other, format!("cannot make a terminal for {name:?}: {e}")))?;
    let has_terminal = terminal.is_some();
    let master = match terminal {
        Some((master, slave)) => {
            let copy = || slave.try_clone().map_err(|e| describe(name, &e));
            command.stdin(copy()?).stdout(copy()?).stderr(slave);
            Some(master)
        }
        None => {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            None
        }
    };
    let groups: Vec<Gid> = account.groups.into_iter().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.gid));
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    unsafe {
        command.pre_exec(move || become_user(has_terminal, &groups, uid, gid, directory.as_fd()));
    }
    let child = command.spawn().map_err(|e| describe(name, &e))?;
    // The slave's descriptors in `command` would keep the terminal from ending.
    drop(command);
    attach(child, master).map_err(|e| describe(name, &e))
}

/// In the new process.
fn become_user(has_terminal: bool, groups: &[Gid], uid: Uid, gid: Gid, directory: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::setsid()?;
    if has_terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    rustix::thread::set_thread_groups(groups)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::fchdir(directory)?;
    Ok(())
}

fn attach(mut child: Child, master: Option<OwnedFd>) -> io::Result<Program> {
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let (stdin, outputs) = match &master {
        Some(master) => (Some(master.try_clone()?), [Some(master.try_clone()?), None]),
        None => (
            child.stdin.take().map(OwnedFd::from),
            [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)],
        ),
    };
    for fd in stdin.iter().chain(outputs.iter().flatten()) {
        set_nonblocking(fd)?;
    }
    Ok(Program { child, pidfd, stdin, outputs, terminal: master })
}

/// Makes reads and writes of `fd` return instead of waiting.
pub(super) fn set_nonblocking(fd: impl AsFd) -> rustix::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)? | OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(fd, flags)
}

fn open_terminal(size: WindowSize, uid: u32) -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    // So that the user can open the terminal again by its name.
    rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None)?;
    resize(&master, size)?;
    Ok((master, slave))
}

/// Sets a terminal's size; one without extent is left alone.
pub(super) fn resize(terminal: impl AsFd, size: WindowSize) -> rustix::io::Result<()> {
    if size.width == 0 || size.height == 0 {
        return Ok(());
    }
    let size = Winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

fn working_directory(spec: &ExecSpec, home: Option<String>) -> Result<(PathBuf, OwnedFd), GuestError> {
    let open =
        |path: &Path| rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    if let Some(cwd) = &spec.cwd {
        let path = Path::new("/").join(cwd);
        let directory = open(&path).map_err(|e| {
            let text = format!("cannot use {cwd:?} as the working directory: {}", io::Error::from(e));
            failure(ErrorKind::Invalid, text)
        })?;
        return Ok((path, directory));
    }
    let home = home.map_or_else(|| PathBuf::from("/"), PathBuf::from);
    if let Ok(directory) = open(&home) {
        return Ok((home, directory));
    }
    let root = open(Path::new("/")).map_err(|e| describe("/", &e.into()))?;
    Ok((PathBuf::from("/"), root))
}

/// Looks a program up as a shell does, from the directory `cwd`.
fn find(name: &str, path: &str, cwd: &Path) -> Result<PathBuf, GuestError> {
    if name.is_empty() {
        return Err(failure(ErrorKind::Invalid, "the name of the program is empty"));
    }
    if name.contains('/') {
        return Ok(cwd.join(name));
    }
    let mut refused = None;
    for directory in path.split(':') {
        let candidate = cwd.join(directory).join(name);
        let Ok(meta) = std::fs::metadata(&candidate) else { continue };
        if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            return Ok(candidate);
        }
        refused = Some(candidate);
    }
    Err(match refused {
        Some(candidate) => {
            let text = format!("cannot run {name:?}: {} is not executable", candidate.display());
            failure(ErrorKind::PermissionDenied, text)
        }
        None => failure(ErrorKind::NotFound, format!("cannot run {name:?}: not found in PATH ({path})")),
    })
}

fn describe(name: &str, e: &io::Error) -> GuestError {
    let kind = match (e.kind(), e.raw_os_error()) {
        (io::ErrorKind::NotFound, _) | (_, Some(libc::ENOTDIR)) => ErrorKind::NotFound,
        (io::ErrorKind::PermissionDenied, _) | (_, Some(libc::ENOEXEC | libc::EISDIR)) => ErrorKind::PermissionDenied,
        (io::ErrorKind::InvalidInput, _) | (_, Some(libc::E2BIG)) => ErrorKind::Invalid,
        _ => ErrorKind::Other,
    };
    failure(kind, format!("cannot run {name:?}: {e}"))
}
