//! The few system calls of confinement that have no safe wrapper.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Which side of a [`fork`] the caller is on.
pub enum Fork {
    /// The parent, with the child's process id.
    Parent(i32),
    /// The child.
    Child,
}

fn check(result: i32) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Forks. Only for the helper, which has a single thread.
pub fn fork() -> io::Result<Fork> {
    debug_assert_eq!(threads(), 1, "only a single-threaded process may fork");
    // SAFETY: the helper has one thread (checked above), so the child's memory is consistent and no lock is
    // held by a thread that does not exist there.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid)),
    }
}

fn threads() -> usize {
    // Without /proc (inside the confinement) nothing can be counted.
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Waits for child `pid` and gives its exit code, or 128 + signal.
pub fn wait(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place for the status word.
        let result = unsafe { libc::waitpid(pid, &mut status, 0) };
        if result == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    if libc::WIFSIGNALED(status) { Ok(128 + libc::WTERMSIG(status)) } else { Ok(libc::WEXITSTATUS(status)) }
}

/// Sends SIGKILL to child `pid`, which must not have been waited for.
pub fn kill(pid: i32) {
    // SAFETY: integer arguments; the child is not reaped yet, so its id cannot be somebody else's.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Ends the process at once, without running destructors of what the parent owns.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Leaves the given namespaces behind (`CLONE_NEW*`).
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: plain flags; the process has one thread.
    check(unsafe { libc::unshare(flags) })
}

/// Makes the current directory the root and takes the old root's mount away.
pub fn pivot_here() -> io::Result<()> {
    let dot = c".";
    // SAFETY: both arguments are valid C strings. Old and new root are the same directory: the old root is
    // mounted over the new one (pivot_root(2), "pivot_root(".", ".")") and unmounted next.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, dot.as_ptr(), dot.as_ptr()) } as i32)?;
    // SAFETY: valid C string and flags.
    check(unsafe { libc::umount2(dot.as_ptr(), libc::MNT_DETACH) })
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Makes the mount at `path` and all mounts below it read-only, or writable again.
pub fn set_read_only(path: impl AsRef<std::path::Path>, read_only: bool) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    const RDONLY: u64 = 1;
    let path = std::ffi::CString::new(path.as_ref().as_os_str().as_bytes())?;
    let (set, clear) = if read_only { (RDONLY, 0) } else { (0, RDONLY) };
    let attributes = MountAttr { set, clear, propagation: 0, user_namespace: 0 };
    let size = size_of::<MountAttr>();
    // SAFETY: `path` is a C string and `attributes` has the layout of `struct mount_attr` (mount_setattr(2)); both
    // live through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size,
        )
    } as i32)
}

/// Sets the soft and hard limit of a resource.
pub fn set_limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` is initialised and lives through the call.
    check(unsafe { libc::setrlimit(resource, &limit) })
}

/// Bytes that may still be written to the filesystem of `dir`, and its total size.
pub fn space(dir: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstatvfs(dir)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// Drops every capability except those in `keep` from all sets, for this process and what it executes.
pub fn keep_capabilities(keep: &[u32]) -> io::Result<()> {
    for capability in 0..64 {
        if keep.contains(&capability) {
            continue;
        }
        // SAFETY: integer arguments only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result == -1 {
            // The first number the kernel does not know ends the list.
            match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EINVAL) => break,
                error => return Err(error),
            }
        }
    }
    // SAFETY: integer arguments only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })?;
    let mask = keep.iter().fold(0u64, |mask, bit| mask | 1 << bit);
    set_capabilities(mask)
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn set_capabilities(mask: u64) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = CapHeader { version: VERSION_3, pid: 0 };
    let half = |bits: u32| CapData { effective: bits, permitted: bits, inheritable: 0 };
    let data = [half(mask as u32), half((mask >> 32) as u32)];
    // SAFETY: header and data have the layout of capset(2) version 3 and live through the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } as i32)
}

/// Becomes user and group `id` with no supplementary groups.
pub fn become_user(id: u32) -> io::Result<()> {
    // SAFETY: an empty list with a null pointer is valid.
    check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: integer arguments; the process has one thread, so all of it changes.
    check(unsafe { libc::setresgid(id, id, id) })?;
    // SAFETY: as above.
    check(unsafe { libc::setresuid(id, id, id) })
}

/// Makes the kernel send SIGKILL to this process when its parent ends.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: integer arguments only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })
}

/// Forbids gaining privileges by executing set-id files; seccomp needs it.
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: integer arguments only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// Asks the filesystem to make `to` share the blocks of `from` (FICLONE).
pub fn clone_blocks(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are open descriptors; the ioctl takes the source descriptor by value.
    check(unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) })
}
