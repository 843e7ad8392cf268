//! Steps of operations, at whose ends a test may kill the daemon.
//!
//! Whatever outlasts the daemon's process or is seen outside of it (a committed transaction, a directory in its place, a link, a
//! helper that was told something) is followed by a call of [`done`], with nothing of that kind in between. A debug build that
//! finds [`VARIABLE`] in its environment lets a test choose one of these moments and kills itself there, as a crash would;
//! in a release build there is nothing of it.
//!
//! The variable names a directory. The file [`ARMED`] in it holds a word that tells it from earlier ones, a blank, and how
//! many steps are done before the end. At the last of them the daemon writes the step's name to [`STEP`], renames the file to
//! [`FIRED`] and ends itself. A test that removes the file first lives on with a daemon that lives on.

use std::fmt::Display;

/// Environment variable that names the directory.
pub const VARIABLE: &str = "BERTH_STEPS";
/// File that asks for the end.
pub const ARMED: &str = "armed";
/// What that is called once the end has come.
pub const FIRED: &str = "fired";
/// File with the name of the last step.
pub const STEP: &str = "step";

/// Tells that a step is done.
#[inline]
pub fn done(step: impl Display) {
    #[cfg(debug_assertions)]
    armed::done(&step);
    #[cfg(not(debug_assertions))]
    let _ = step;
}

#[cfg(debug_assertions)]
mod armed {
    use std::fmt::Display;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::{LazyLock, Mutex, PoisonError};

    use rustix::process::{Signal, getpid, kill_process};

    use super::{ARMED, FIRED, STEP, VARIABLE};

    static DIR: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os(VARIABLE).map(PathBuf::from));

    static COUNT: Mutex<Count> = Mutex::new(Count { asked: String::new(), done: 0 });

    /// How many steps were done since a test asked for the end in these words.
    struct Count {
        asked: String,
        done: u64,
    }

    impl Count {
        /// Whether the test that says `asked` now wants the end at this step.
        fn is_last(&mut self, asked: String) -> bool {
            if self.asked != asked {
                *self = Count { asked, done: 0 };
            }
            self.done += 1;
            self.asked.split_once(' ').and_then(|(_, steps)| steps.parse().ok()) == Some(self.done)
        }
    }

    pub(super) fn done(step: &dyn Display) {
        let Some(dir) = &*DIR else { return };
        // One step after the other, so that none is done unseen while another one kills.
        let mut count = COUNT.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(asked) = fs::read_to_string(dir.join(ARMED)) else { return };
        if count.is_last(asked) && fires(dir, step) {
            // Nobody gets further than here: the lock is held to the end.
            let _ = kill_process(getpid(), Signal::KILL);
            std::process::abort();
        }
    }

    fn fires(dir: &Path, step: &dyn Display) -> bool {
        let written = fs::write(dir.join(STEP), step.to_string());
        // Only one succeeds: this, or the test that takes the file away.
        written.is_ok() && fs::rename(dir.join(ARMED), dir.join(FIRED)).is_ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn steps_count_from_when_it_is_asked() {
            let mut count = Count { asked: String::new(), done: 0 };
            let mut last = |asked: &str| count.is_last(asked.to_owned());
            assert!(!last("a 2") && last("a 2") && !last("a 2"));
            assert!(!last("b 2") && last("b 2"));
            assert!(last("c 1"));
            assert!(!last("d") && !last("d x") && !last(""));
        }

        #[test]
        fn who_takes_the_file_away_is_spared() {
            let dir = tempfile::tempdir().unwrap();
            assert!(!fires(dir.path(), &"a step"));
            fs::write(dir.path().join(ARMED), "a 1").unwrap();
            assert!(fires(dir.path(), &"a step"));
            assert!(!dir.path().join(ARMED).exists() && dir.path().join(FIRED).exists());
            assert_eq!(fs::read_to_string(dir.path().join(STEP)).unwrap(), "a step");
        }
    }
}
