//! The file systems on a disk image: ext4 on the whole of it, or in partitions of a GPT.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use ext4_view::{Ext4, Ext4Read};

use super::find::Files;
use crate::wire::{Failure, JobResult};

/// Most partitions that are looked at.
const PARTITIONS_MAX: usize = 32;
/// Most names that are read of a directory.
const NAMES_MAX: usize = 10_000;
const SECTOR: u64 = 512;

/// A part of the disk.
struct Window {
    disk: Rc<File>,
    start: u64,
    length: u64,
}

impl Ext4Read for Window {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let end = start.checked_add(into.len() as u64).filter(|&end| end <= self.length);
        let at = end.and_then(|_| self.start.checked_add(start));
        let at = at.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(self.disk.read_exact_at(into, at)?)
    }
}

/// One readable file system.
pub struct Volume {
    fs: Ext4,
    /// How the kernel is told to find it as its root.
    pub root_arg: String,
}

impl Files for Volume {
    fn read(&self, path: &str, cap: u64) -> Option<Vec<u8>> {
        let mut file = self.fs.open(path).ok()?;
        let length = file.metadata().len();
        if length > cap || !self.is_file(path) {
            return None;
        }
        let mut content = vec![0; usize::try_from(length).ok()?];
        let mut done = 0;
        while done < content.len() {
            match file.read_bytes(&mut content[done..]) {
                Ok(0) | Err(_) => return None,
                Ok(count) => done += count,
            }
        }
        Some(content)
    }

    fn is_file(&self, path: &str) -> bool {
        self.fs.metadata(path).is_ok_and(|info| info.file_type().is_regular_file())
    }

    fn list(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = self.fs.read_dir(directory) else { return Vec::new() };
        let names = entries.take(NAMES_MAX).filter_map(|entry| Some(entry.ok()?.file_name().as_str().ok()?.to_owned()));
        names.filter(|name| name != "." && name != "..").collect()
    }
}

impl Volume {
    fn load(disk: &Rc<File>, start: u64, length: u64, root_arg: String) -> Option<Self> {
        let window = Window { disk: Rc::clone(disk), start, length };
        Ext4::load(Box::new(window)).ok().map(|fs| Self { fs, root_arg })
    }

    /// Whether this is a root file system rather than one for `/boot`.
    pub fn is_root(&self) -> bool {
        self.fs.metadata("/etc").is_ok_and(|info| info.is_dir())
    }

    /// Path of file system member `path` with links resolved.
    pub fn canonical(&self, path: &str) -> Option<String> {
        self.fs.canonicalize(path).ok()?.to_str().ok().map(str::to_owned)
    }
}

/// The ext4 file systems on `disk`, in order of partitions.
pub fn volumes(disk: File) -> JobResult<Vec<Volume>> {
    let length = disk.metadata().map_err(Failure::from_io("look at the disk"))?.len();
    let disk = Rc::new(disk);
    if let Some(whole) = Volume::load(&disk, 0, length, "root=/dev/vda".to_owned()) {
        return Ok(vec![whole]);
    }
    let reader = disk.try_clone().map_err(Failure::from_io("open the disk again"))?;
    let table = gpt::GptConfig::new().writable(false).open_from_device(reader).map_err(|_| {
        Failure::invalid(
            "the disk holds neither an ext4 file system nor a GPT; Berth boots kernels from ext4 only, on a whole disk or in a GPT",
        )
    })?;
    let mut volumes = Vec::new();
    for partition in table.partitions().values().filter(|partition| partition.is_used()).take(PARTITIONS_MAX) {
        let sectors = partition.last_lba.checked_sub(partition.first_lba).and_then(|n| n.checked_add(1));
        let start = partition.first_lba.checked_mul(SECTOR);
        let Some((start, size)) = start.zip(sectors.and_then(|n| n.checked_mul(SECTOR))) else { continue };
        let root_arg = format!("root=PARTUUID={}", partition.part_guid);
        volumes.extend(Volume::load(&disk, start, size.min(length.saturating_sub(start)), root_arg));
    }
    if volumes.is_empty() {
        return Err(Failure::invalid(
            "no partition of the disk holds an ext4 file system, the only kind Berth can boot from",
        ));
    }
    Ok(volumes)
}
