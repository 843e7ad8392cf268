//! The files of a saved virtual machine: a directory with its state and its RAM.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(crate) use berth_vmm::spec::Heir;

use crate::error::{Error, Result};

/// A state to go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Saved {
    /// The directory.
    pub directory: PathBuf,
    /// Who goes on.
    pub heir: Heir,
}

/// Names in the directory.
const FILES: [&str; 2] = ["machine", "ram"];

/// Makes the directory, for root only, with empty files. What a save left that was cut off is replaced.
pub(crate) fn create(dir: &Path) -> Result<[OwnedFd; 2]> {
    discard(dir)?;
    DirBuilder::new().mode(0o700).create(dir).map_err(Error::io(format!("make the directory {}", dir.display())))?;
    let create = |name: &str| {
        let path = dir.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        file.map(OwnedFd::from).map_err(Error::io(format!("make {}", path.display())))
    };
    Ok([create(FILES[0])?, create(FILES[1])?])
}

/// Opens the files of a complete directory.
pub(crate) fn open(dir: &Path) -> Result<[OwnedFd; 2]> {
    let open = |name: &str| {
        let path = dir.join(name);
        File::open(&path).map(OwnedFd::from).map_err(Error::io(format!("open the saved state {}", path.display())))
    };
    Ok([open(FILES[0])?, open(FILES[1])?])
}

/// Brings files, directory and disk to stable storage.
pub(crate) fn sync(files: [OwnedFd; 2], dir: &Path, disk: &Path) -> Result<()> {
    let sync = |file: File, path: &Path| file.sync_all().map_err(Error::io(format!("sync {}", path.display())));
    for (file, name) in files.into_iter().zip(FILES) {
        sync(file.into(), &dir.join(name))?;
    }
    for path in [dir, disk] {
        sync(File::open(path).map_err(Error::io(format!("open {}", path.display())))?, path)?;
    }
    Ok(())
}

/// Removes the directory, if there is one.
pub(crate) fn discard(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove the saved state {}", dir.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Gives a complete directory its final name, for good.
pub(crate) fn complete(from: &Path, to: &Path) -> Result<()> {
    discard(to)?;
    std::fs::rename(from, to).map_err(Error::io(format!("rename {}", from.display())))?;
    let parent = to.parent().unwrap_or(to);
    let synced = File::open(parent).and_then(|dir| dir.sync_all());
    synced.map_err(Error::io(format!("sync {}", parent.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (new, kept, disk) = (dir.path().join("new"), dir.path().join("kept"), dir.path().join("disk"));
        std::fs::write(&disk, "").unwrap();
        std::fs::create_dir(&new).unwrap();
        std::fs::write(new.join("left over"), "").unwrap();
        let files = create(&new).unwrap();
        assert!(!new.join("left over").exists());
        assert!(open(&kept).is_err());
        sync(files, &new, &disk).unwrap();
        complete(&new, &kept).unwrap();
        assert!(!new.exists());
        open(&kept).unwrap();
        discard(&kept).unwrap();
        discard(&kept).unwrap();
        assert!(open(&kept).is_err());
    }
}
