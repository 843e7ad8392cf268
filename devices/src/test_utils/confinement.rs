//! Device threads of tests run under the same filter as those of a machine, so that a missing system call shows here.

use std::io;
use std::sync::{Arc, Once, OnceLock};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::worker::{ThreadKind, ThreadSetup};

/// A set-up that kills the test's process when a thread makes a system call that is not on its kind's list.
pub fn confined() -> ThreadSetup {
    bound_arenas();
    Arc::new(|kind| apply_filter(program(kind)).map_err(io::Error::other))
}

/// Before its ninth arena the allocator opens a file of `/sys` to count the CPUs, on whatever thread that happens, unless
/// it is told how many it may have.
fn bound_arenas() {
    static ONCE: Once = Once::new();
    // SAFETY: sets a number in the allocator, which takes its own lock for that.
    ONCE.call_once(|| assert_eq!(unsafe { libc::mallopt(libc::M_ARENA_MAX, 8) }, 1));
}

fn program(kind: ThreadKind) -> &'static BpfProgram {
    static PROGRAMS: [OnceLock<BpfProgram>; 4] = [const { OnceLock::new() }; 4];
    PROGRAMS[kind as usize].get_or_init(|| {
        let rules = kind.syscalls().into_iter().map(|number| (number, Vec::new())).collect();
        let arch = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch);
        filter.unwrap().try_into().unwrap()
    })
}
