//! Device threads of tests run under the same filter as those of a machine, so that a missing system call shows here.

use std::io;
use std::sync::{Arc, OnceLock};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::worker::{ThreadKind, ThreadSetup};

/// A set-up that kills the test's process when a thread makes a system call that is not on its kind's list.
pub fn confined() -> ThreadSetup {
    Arc::new(|kind| apply_filter(program(kind)).map_err(io::Error::other))
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
