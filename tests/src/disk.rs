//! A disk that can be filled up.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// A small file system of its own, unmounted in the end.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// One of that size, as mount(8) takes it.
    pub fn new(size: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("berth").tempdir().expect("a directory can be made");
        let options = format!("size={size},mode=755");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status();
        assert!(status.expect("mount(8) can be run").success(), "a tmpfs can be mounted");
        Self(dir)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it up but for `left` bytes; gives the file to be removed.
    pub fn fill(&self, left: u64) -> PathBuf {
        let path = self.path().join("filler");
        let stat = statvfs(self.path()).expect("it is mounted");
        let free = stat.f_bavail * stat.f_frsize;
        let file = File::create(&path).expect("a file can be made");
        fallocate(&file, FallocateFlags::empty(), 0, free - left).expect("it has the space");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: after a failure something may still be in it.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
