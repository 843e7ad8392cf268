//! The system calls of device threads.

use std::io;

use super::ThreadKind;
use crate::seccomp::{Filter, Restricted};

/// What every device's thread needs beside what all threads do: its loop.
const LOOP: &[libc::c_long] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
];

impl ThreadKind {
    /// What a thread of this kind may do after its set-up.
    pub fn filter(self) -> io::Result<Filter> {
        let (calls, restricted): (&[libc::c_long], &[Restricted]) = match self {
            Self::Block => (crate::block::SYSCALLS, &[]),
            Self::Net => {
                (crate::net::SYSCALLS, &[Restricted::with(libc::SYS_ioctl, 1, crate::net::TUNSETOFFLOAD as u32)])
            }
            Self::Vsock => (crate::vsock::SYSCALLS, &[Restricted::with(libc::SYS_socket, 0, libc::AF_UNIX as u32)]),
            Self::Rng => (&[], &[]),
        };
        Filter::new(&[LOOP, calls].concat(), restricted)
    }
}
