//! Removing in the background: one thread that empties trash directories.

use std::path::PathBuf;
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::tree;

/// A handle to the thread, which ends after the last handle is gone and its work is done.
#[derive(Clone, Debug)]
pub(crate) struct Reaper {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
enum Job {
    /// Empty this directory.
    Empty(PathBuf),
    /// Say that all earlier jobs are done.
    Tell(oneshot::Sender<()>),
}

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Reaper> {
        let (jobs, queue) = mpsc::channel();
        std::thread::Builder::new().name("storage-reaper".to_owned()).spawn(move || {
            for job in queue {
                match job {
                    Job::Empty(dir) => {
                        if let Err(error) = tree::empty(&dir) {
                            // Nothing is lost but space, and the next start tries again.
                            tracing::warn!(%error, dir = %dir.display(), "Cannot remove all of what was deleted");
                        }
                    }
                    // Nobody may wait any more.
                    Job::Tell(waiting) => drop(waiting.send(())),
                }
            }
        })?;
        Ok(Reaper { jobs })
    }

    /// Asks for the trash directory to be emptied.
    pub(crate) fn empty(&self, trash: PathBuf) {
        // The thread ends after the last handle only, so this cannot fail while there is one.
        let _ = self.jobs.send(Job::Empty(trash));
    }

    /// Returns when everything that was asked for so far is done.
    pub(crate) async fn settle(&self) {
        let (tell, told) = oneshot::channel();
        let _ = self.jobs.send(Job::Tell(tell));
        let _ = told.await;
    }
}
