//! Device threads of tests run under the same filter as those of a machine, so that a missing system call shows here.

use std::sync::{Arc, Once};

use crate::seccomp;
use crate::worker::ThreadSetup;

/// A set-up that kills the test's process when a thread makes a system call that is not on its kind's list.
pub fn confined() -> ThreadSetup {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| seccomp::settle_allocator().unwrap());
    Arc::new(|kind| kind.filter()?.enter())
}
