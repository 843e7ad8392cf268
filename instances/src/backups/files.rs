//! The files of backups: all in one directory, which only root may enter. What no document speaks of is left over.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use berth_store::step;
use uuid::Uuid;

use crate::error::{Error, Result};

/// The directory.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    dir: PathBuf,
}

impl Files {
    /// That of the daemon whose directory is `dir`.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.join("backups") }
    }

    /// Makes the directory and removes everything in it that is not `known`.
    pub fn clear(&self, known: &HashSet<Uuid>) -> Result<()> {
        let failed = |action: &str| Error::io(format!("{action} {}", self.dir.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(failed("make the directory"))?;
        for entry in fs::read_dir(&self.dir).map_err(failed("read"))? {
            let entry = entry.map_err(failed("read"))?;
            let uuid = entry.file_name().to_str().and_then(|name| Uuid::parse_str(name).ok());
            if uuid.is_none_or(|uuid| !known.contains(&uuid)) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Where a file is.
    pub fn place(&self, file: Uuid) -> PathBuf {
        self.dir.join(file.simple().to_string())
    }

    /// A new empty file.
    pub fn scratch(&self) -> Result<Scratch> {
        let uuid = Uuid::new_v4();
        let path = self.place(uuid);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(Error::io(format!("make the file {}", path.display())))?;
        step::done("file of a backup begun");
        Ok(Scratch { uuid, path: Some(path), file })
    }

    /// Removes a file; one that is gone is fine.
    pub fn remove(&self, file: Uuid) -> Result<()> {
        remove(&self.place(file))
    }

    /// Brings a complete file to disk.
    pub fn sync(&self, file: &File) -> Result<()> {
        let synced = file.sync_all().and_then(|()| File::open(&self.dir)?.sync_all());
        synced.map_err(Error::io(format!("write a file in {}", self.dir.display())))?;
        step::done("file of a backup whole");
        Ok(())
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("remove {}", path.display()))(e)),
        _ => {
            step::done("file of a backup removed");
            Ok(())
        }
    }
}

/// A file that goes away unless it is kept.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub uuid: Uuid,
    path: Option<PathBuf>,
    pub file: File,
}

impl Scratch {
    /// Where it is.
    pub fn path(&self) -> &Path {
        // Only absent after `keep`, which takes the value.
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    /// From here on, a document speaks of it.
    pub fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = remove(&path)
        {
            tracing::warn!("an unfinished backup stays until the next start: {error}");
        }
    }
}

/// A file for a backup that somebody sends. It goes away when this is dropped.
#[derive(Debug)]
pub struct Upload {
    pub(crate) scratch: Scratch,
}

impl Upload {
    /// Where what was sent is to be written.
    pub fn path(&self) -> &Path {
        self.scratch.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_speaks_of_goes() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::of(dir.path());
        files.clear(&HashSet::new()).unwrap();
        let (kept, lost, dropped) = (files.scratch().unwrap(), files.scratch().unwrap(), files.scratch().unwrap());
        let gone = dropped.path().to_owned();
        drop(dropped);
        assert!(!gone.exists());
        let (known, unknown) = (kept.uuid, lost.uuid);
        files.sync(&kept.file).unwrap();
        kept.keep();
        lost.keep();
        fs::write(dir.path().join("backups/other"), "").unwrap();
        files.clear(&HashSet::from([known])).unwrap();
        assert!(files.place(known).exists() && !files.place(unknown).exists());
        assert_eq!(fs::read_dir(dir.path().join("backups")).unwrap().count(), 1);
        files.remove(known).unwrap();
        files.remove(known).unwrap();
    }
}
