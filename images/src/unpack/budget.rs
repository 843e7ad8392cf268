//! How much an archive may unpack to.

use crate::wire::{Failure, JobResult};

/// Bytes and entries an archive may still produce.
#[derive(Debug, Clone)]
pub struct Budget {
    bytes: u64,
    entries: u64,
    limits: (u64, u64),
    file: u64,
}

impl Budget {
    /// At most `bytes` bytes of content in at most `entries` files, directories and links.
    pub fn new(bytes: u64, entries: u64) -> Self {
        Self { bytes, entries, limits: (bytes, entries), file: bytes }
    }

    /// The same where one file with its holes, which take no room, may be as large as `file` bytes.
    pub fn with_holes(bytes: u64, entries: u64, file: u64) -> Self {
        Self { file, ..Self::new(bytes, entries) }
    }

    /// Checks the size of a file, its holes included.
    pub fn check_size(&self, size: u64) -> JobResult<()> {
        if size > self.file { Err(self.too_big()) } else { Ok(()) }
    }

    /// Counts content.
    pub fn take_bytes(&mut self, count: u64) -> JobResult<()> {
        self.bytes = self.bytes.checked_sub(count).ok_or_else(|| self.too_big())?;
        Ok(())
    }

    /// Counts one entry.
    pub fn take_entry(&mut self) -> JobResult<()> {
        self.entries = self.entries.checked_sub(1).ok_or_else(|| self.too_many())?;
        Ok(())
    }

    /// Bytes that may still come.
    pub fn bytes_left(&self) -> u64 {
        self.bytes
    }

    /// Entries that may still come.
    pub fn entries_left(&self) -> u64 {
        self.entries
    }

    /// The error for too many bytes.
    pub fn too_big(&self) -> Failure {
        Failure::invalid(format!(
            "the archive unpacks to more than {} bytes, which is its limit or what the disk has room for; \
             free some space or use a smaller one",
            self.limits.0
        ))
    }

    /// The error for too many entries.
    pub fn too_many(&self) -> Failure {
        Failure::invalid(format!("the archive holds more than {} files; use a smaller one", self.limits.1))
    }
}
