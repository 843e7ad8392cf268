//! The system calls of device threads, for the machine's seccomp filters.

use super::ThreadKind;

/// What every thread of a device needs: its loop, interrupts, memory for its lists, logging, and its end.
const COMMON: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// Debug builds of the standard library look at descriptors before they close them.
const DEBUG: &[libc::c_long] = if cfg!(debug_assertions) { &[libc::SYS_fcntl] } else { &[] };

impl ThreadKind {
    /// System calls (by number) a thread of this kind makes after its set-up, for a seccomp filter.
    pub fn syscalls(self) -> Vec<libc::c_long> {
        let own: &[libc::c_long] = match self {
            Self::Block => crate::block::SYSCALLS,
            Self::Net => crate::net::SYSCALLS,
            Self::Vsock => crate::vsock::SYSCALLS,
            Self::Rng => &[],
        };
        [COMMON, DEBUG, own].concat()
    }
}
