//! Filters of system calls, one for each kind of thread.
//!
//! A thread that makes a call that its filter does not name is at its end, and the whole process with it (SIGSYS): such a
//! call is either made by code that the guest has taken over, or is missing in a list, which must not go unnoticed.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What every thread of the process needs: memory, locks, its end, a last word to the log, and the ways to die of a panic or a
/// fault, so that it is told apart from a forbidden call.
const COMMON: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// A system call that is allowed with some values of one argument only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restricted {
    number: c_long,
    argument: u8,
    mask: u64,
    value: u64,
}

impl Restricted {
    /// Allowed if argument `argument` (counted from 0) is `value`; only the low 32 bits are looked at, as the kernel does
    /// for requests, flags and process ids.
    pub const fn with(number: c_long, argument: u8, value: u32) -> Self {
        Self { number, argument, mask: u32::MAX as u64, value: value as u64 }
    }

    /// Allowed if argument `argument` has none of `bits`.
    pub const fn without(number: c_long, argument: u8, bits: u32) -> Self {
        Self { number, argument, mask: bits as u64, value: 0 }
    }

    fn rule(self) -> Result<SeccompRule, seccompiler::BackendError> {
        let compare = SeccompCmpOp::MaskedEq(self.mask);
        SeccompRule::new(vec![SeccompCondition::new(self.argument, SeccompCmpArgLen::Dword, compare, self.value)?])
    }
}

/// Debug builds of the standard library look at descriptors before they close them. No more than that, so that they do not
/// pass what kills a release build.
const DEBUG: &[Restricted] =
    if cfg!(debug_assertions) { &[Restricted::with(libc::SYS_fcntl, 1, libc::F_GETFD as u32)] } else { &[] };

/// A filter that can be put on a thread.
pub struct Filter(BpfProgram);

impl Filter {
    /// Allows what every thread needs, and `calls`; of a call in `restricted` only what that allows, be it in `calls` or not.
    pub fn new(calls: &[c_long], restricted: &[Restricted]) -> io::Result<Self> {
        let own = std::process::id();
        let everywhere = [
            // Code comes from the program file alone.
            Restricted::without(libc::SYS_mmap, 2, libc::PROT_EXEC as u32),
            Restricted::without(libc::SYS_mprotect, 2, libc::PROT_EXEC as u32),
            // `abort`, and signals to threads of the process.
            Restricted::with(libc::SYS_tgkill, 0, own),
        ];
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            COMMON.iter().chain(calls).map(|number| (*number, Vec::new())).collect();
        for call in restricted.iter().chain(&everywhere).chain(DEBUG) {
            rules.entry(call.number).or_default().push(call.rule().map_err(io::Error::other)?);
        }
        let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
        let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch);
        filter.and_then(TryInto::try_into).map(Self).map_err(io::Error::other)
    }

    /// Puts the filter on the calling thread for good. Threads it makes later have it too.
    pub fn enter(&self) -> io::Result<()> {
        seccompiler::apply_filter(&self.0).map_err(io::Error::other)
    }
}

/// Makes the C library's allocator keep to what the filters allow; call before the first thread is begun. Otherwise it opens
/// files on whatever thread comes to it: one of `/sys`, to count the CPUs before its ninth arena, and
/// `/proc/sys/vm/overcommit_memory`, before it first gives back the free end of an arena.
pub fn settle_allocator() -> io::Result<()> {
    /// Device threads and virtual CPUs allocate little and seldom.
    const ARENAS: libc::c_int = 2;
    // What is never given back stays small: pieces of 128 KiB and more are mappings of their own.
    for (option, value) in [(libc::M_ARENA_MAX, ARENAS), (libc::M_TRIM_THRESHOLD, libc::c_int::MAX)] {
        // SAFETY: sets a number in the allocator, which takes its own lock for that.
        if unsafe { libc::mallopt(option, value) } != 1 {
            return Err(io::Error::other(format!("the allocator refuses option {option}")));
        }
    }
    Ok(())
}
