//! System calls that no safe wrapper offers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::Pid;

/// From `linux/sched.h`; the `libc` crate's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Turns the result of a raw call into ours.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A child with the handle that names it for good.
pub struct Forked {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// Forks with clone3(2) and `flags` (`CLONE_*`). The child runs `body` and ends with the status it returns.
///
/// # Safety
/// The calling process must have a single thread: the child is a copy of it and goes on to allocate.
pub unsafe fn fork(flags: i32, cgroup: Option<BorrowedFd<'_>>, body: impl FnOnce() -> i32) -> io::Result<Forked> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is the documented neutral value of this plain structure.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags as u64 | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    if flags & libc::CLONE_PARENT == 0 {
        // With CLONE_PARENT the signal is that of the caller itself and must not be given.
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and a stack this is a fork; `args` is valid and of the size told. The caller
    // vouches for the single thread.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) })?;
    if pid == 0 {
        // A panic must not unwind into the parent's code.
        let status = catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
        // SAFETY: ends the process; nothing of the parent's is flushed or dropped twice.
        unsafe { libc::_exit(status) };
    }
    let pid = Pid::from_raw(pid as i32).expect("clone3 gave the parent a process id");
    // SAFETY: the kernel put a new descriptor there, which nobody else owns.
    Ok(Forked { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Sends any signal, real-time ones too.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: takes numbers and a null pointer only.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    check(result).map(drop)
}

/// Changes the attributes (`MOUNT_ATTR_*`) of the mount at `tree`, of all below it if `recursive`. `userns` goes
/// with `MOUNT_ATTR_IDMAP`.
pub fn mount_setattr(
    tree: BorrowedFd<'_>,
    set: u64,
    userns: Option<BorrowedFd<'_>>,
    recursive: bool,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: userns.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    set_attributes(tree, &attributes, recursive)
}

fn set_attributes(tree: BorrowedFd<'_>, attributes: &libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path and structure are valid for the call and the size is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of_val(attributes),
        )
    };
    check(result).map(drop)
}

/// Changes how mounts spread (`MS_PRIVATE` and its like) at the mount at `tree`, at all below it if `recursive`.
pub fn mount_propagation(tree: BorrowedFd<'_>, propagation: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation, userns_fd: 0 };
    set_attributes(tree, &attributes, recursive)
}

/// Leaves the namespaces named by `flags` (`CLONE_NEW*`).
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: no caller passes CLONE_FILES, which alone could pull a descriptor from under another thread.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Enters the namespaces named by `flags` of the process or namespace behind `fd`.
pub fn setns(fd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::setns(fd.as_raw_fd(), flags) }.into()).map(drop)
}

/// Loads a seccomp filter. The caller has `CAP_SYS_ADMIN` in its user namespace, so that `no_new_privs`, which
/// would break set-user-id programs, is not needed.
pub fn load_seccomp(filter: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel only reads the program, which is valid for the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    check(result).map(drop)
}

/// Starts an empty session keyring, so that the daemon's is not reachable.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: takes a number and a null pointer (an anonymous keyring).
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    match check(result) {
        // A kernel without keyrings has nothing to be reached.
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map(drop),
    }
}

/// Marks all descriptors from `first` on as close-on-exec.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: takes numbers only and closes nothing now.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_uint) };
    check(result).map(drop)
}

/// Closes all descriptors from `first` on.
///
/// # Safety
/// Nothing in the process may own any of them.
pub unsafe fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: takes numbers only; the caller vouches for the descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Makes `fd` descriptor number `target`, which stays open on exec.
pub fn install_fd(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: takes numbers only; the callers are about to exec and own the low descriptors.
    let result = unsafe {
        if fd.as_raw_fd() == target {
            libc::fcntl(target, libc::F_SETFD, 0)
        } else {
            libc::dup2(fd.as_raw_fd(), target)
        }
    };
    check(result.into()).map(drop)
}

/// Takes descriptor `number` that this process was started with.
///
/// # Safety
/// Nothing else in the process may own it.
pub unsafe fn take_fd(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: it is open, and by contract ours.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A descriptor that becomes readable when one of `signals` arrives; they are blocked.
pub fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised before use and the descriptor is new.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Unblocks all signals. What the monitor watches for by descriptor must reach programs as ever.
pub fn unblock_signals() -> io::Result<()> {
    // SAFETY: the set is initialised before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()).into()).map(drop)
    }
}

/// Brings the loopback interface of the calling process's network namespace up.
pub fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the structure is valid for the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into()).map(drop)
}

/// Sets the limits that programs expect to begin with: 1024 descriptors, which they may raise as far as the host
/// allows. What the monitor uses itself is no business of theirs.
pub fn ordinary_limits() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    let current = hard.map_or(1024, |hard| hard.min(1024));
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: hard })?)
}

/// Raises the caller's limit of descriptors to `wanted`, or as far as it may.
pub fn raise_descriptor_limit(wanted: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    let both = |value| Rlimit { current: Some(value), maximum: Some(value) };
    if hard.is_none_or(|hard| hard >= wanted) || setrlimit(Resource::Nofile, both(wanted)).is_ok() {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })?)
}
