//! Waiting for something in a directory, by inotify(7).

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use crate::run::{patience, ready};

/// Sees what happens in a directory from its making on.
pub struct Watch {
    dir: PathBuf,
    inotify: OwnedFd,
    /// What happened after what was waited for last.
    unseen: Mutex<VecDeque<(ReadFlags, String)>>,
}

impl Watch {
    /// Watches a directory that is there.
    pub fn on(dir: impl AsRef<Path>) -> Self {
        let dir = dir.as_ref().to_owned();
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).expect("inotify works");
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&inotify, &dir, flags).unwrap_or_else(|e| panic!("cannot watch {}: {e}", dir.display()));
        Self { dir, inotify, unseen: Mutex::default() }
    }

    /// Waits until something appears in the directory. Gives its path.
    pub fn entry(&self) -> PathBuf {
        let came = ReadFlags::CREATE | ReadFlags::MOVED_TO;
        let name = self.wait(|flags, name| flags.intersects(came).then(|| name.to_owned()));
        self.dir.join(name)
    }

    /// Waits until the directory itself is removed.
    pub fn gone(&self) {
        self.wait(|flags, _| flags.intersects(ReadFlags::DELETE_SELF | ReadFlags::IGNORED).then_some(()));
    }

    /// Waits until something of this name leaves the directory.
    pub fn left(&self, wanted: &str) {
        let went = ReadFlags::DELETE | ReadFlags::MOVED_FROM;
        self.wait(|flags, name| (flags.intersects(went) && name == wanted).then_some(()));
    }

    /// Names of all that appeared since the last call.
    pub fn names(&self) -> Vec<String> {
        self.read();
        let came = ReadFlags::CREATE | ReadFlags::MOVED_TO;
        std::mem::take(&mut *self.unseen())
            .into_iter()
            .filter_map(|(flags, name)| flags.intersects(came).then_some(name))
            .collect()
    }

    fn wait<T>(&self, mut wanted: impl FnMut(ReadFlags, &str) -> Option<T>) -> T {
        loop {
            self.read();
            loop {
                let Some((flags, name)) = self.unseen().pop_front() else { break };
                if let Some(found) = wanted(flags, &name) {
                    return found;
                }
            }
            assert!(ready(&self.inotify, patience()), "nothing of what is awaited happened in {}", self.dir.display());
        }
    }

    fn unseen(&self) -> MutexGuard<'_, VecDeque<(ReadFlags, String)>> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what there is.
    fn read(&self) {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
                    self.unseen().push_back((event.events(), name.into_owned()));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => panic!("cannot read what happens in {}: {e}", self.dir.display()),
            }
        }
    }
}
