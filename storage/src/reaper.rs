//! Removing in the background: one thread that empties trash directories.

use std::path::PathBuf;
use std::sync::mpsc;

use crate::tree;

/// A handle to the thread, which ends after the last handle is gone and its work is done.
#[derive(Clone, Debug)]
pub(crate) struct Reaper {
    trash: mpsc::Sender<PathBuf>,
}

impl Reaper {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Reaper> {
        let (trash, queue) = mpsc::channel::<PathBuf>();
        std::thread::Builder::new().name("storage-reaper".to_owned()).spawn(move || {
            for dir in queue {
                if let Err(error) = tree::empty(&dir) {
                    // Nothing is lost but space, and the next start tries again.
                    tracing::warn!(%error, dir = %dir.display(), "Cannot remove all of what was deleted");
                }
            }
        })?;
        Ok(Reaper { trash })
    }

    /// Asks for the trash directory to be emptied.
    pub(crate) fn empty(&self, trash: PathBuf) {
        // The thread ends after the last handle only, so this cannot fail while there is one.
        let _ = self.trash.send(trash);
    }
}
