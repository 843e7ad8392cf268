//! Private directories for what is not finished.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Beginning of the name of every directory that may be removed when nobody uses it.
pub(crate) const PREFIX: &str = ".staging-";

/// A private directory for an upload. It goes away when this is dropped.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
}

impl Staging {
    pub(crate) fn new(images: &Path) -> Result<Self> {
        let path = images.join(format!("{PREFIX}{}", uuid::Uuid::new_v4().simple()));
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(Error::io("create directory", &path))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            if let Err(error) = remove_all(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove a staging directory; the next start tries again");
            }
        };
        // A tree may be large: no task is to wait for it.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Removes a tree; one that is not there is fine. Links are removed, not followed.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
