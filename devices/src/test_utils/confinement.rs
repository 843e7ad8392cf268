//! Device threads of tests run under the same filter as those of a machine, so that a missing system call shows here.

use std::io;
use std::sync::{Arc, Once, OnceLock};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::worker::{ThreadKind, ThreadSetup};

/// A set-up that kills the test's process when a thread makes a system call that is not on its kind's list.
pub fn confined() -> ThreadSetup {
    settle_allocator();
    Arc::new(|kind| apply_filter(program(kind)).map_err(io::Error::other))
}

/// Keeps the C library's allocator from opening files on whatever thread comes to it: one of `/sys`, to count the CPUs
/// before its ninth arena, and `/proc/sys/vm/overcommit_memory`, before it first gives back the free end of an arena.
fn settle_allocator() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (option, value) in [(libc::M_ARENA_MAX, 8), (libc::M_TRIM_THRESHOLD, libc::c_int::MAX)] {
            // SAFETY: sets a number in the allocator, which takes its own lock for that.
            assert_eq!(unsafe { libc::mallopt(option, value) }, 1, "the allocator refuses option {option}");
        }
    });
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
