//! Killing a daemon at the end of a step of what it does; see `berth_store::step`.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use berth_store::step::{ARMED, FIRED, STEP};

use crate::daemon::Daemon;

impl Daemon {
    /// Directory by which steps are chosen; it lies beside the daemon's own.
    pub(crate) fn steps_dir(&self) -> PathBuf {
        self.dir().with_extension("steps")
    }

    /// Kills the daemon at the end of the `count`-th step from now on.
    pub fn die_after(&self, count: u64) {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let dir = self.steps_dir();
        fs::create_dir_all(&dir).expect("a directory can be made");
        // The daemon sees all of it or nothing.
        let new = dir.join("new");
        let asked = format!("{} {count}", LAST.fetch_add(1, Ordering::Relaxed));
        fs::write(&new, asked).and_then(|()| fs::rename(&new, dir.join(ARMED))).expect("a file can be written");
    }

    /// The step at which the daemon has died, which is reaped then. Otherwise it lives on.
    pub fn death(&mut self) -> Option<String> {
        let dir = self.steps_dir();
        // The second: nothing was asked for.
        if fs::remove_file(dir.join(ARMED)).is_ok() || fs::remove_file(dir.join(FIRED)).is_err() {
            return None;
        }
        self.reap();
        Some(fs::read_to_string(dir.join(STEP)).expect("a step has a name"))
    }
}
