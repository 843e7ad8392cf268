//! The file systems on a disk image, on the whole of it or in partitions.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use ext4_view::{Ext4, Ext4Read};

use super::fat::Fat;
use super::find::Files;
use super::table;
use crate::wire::{Failure, JobResult};

/// Most names that are read of a directory.
const NAMES_MAX: usize = 10_000;
/// The disk as the guest sees it.
const DEVICE: &str = "/dev/vda";

/// Signatures of what Berth cannot read: where they are, what they are, and what it is called.
const FOREIGN: &[(u64, &[u8], &str)] = &[
    (0, b"XFSB", "xfs"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (512, b"LABELONE", "an LVM volume"),
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (0, b"hsqs", "squashfs"),
];

/// A part of the disk.
#[derive(Clone)]
pub struct Window {
    disk: Rc<File>,
    start: u64,
    length: u64,
}

impl Window {
    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Fills `into` from byte `start` of the window.
    pub fn read_at(&self, start: u64, into: &mut [u8]) -> io::Result<()> {
        let end = start.checked_add(into.len() as u64).filter(|&end| end <= self.length);
        let at = end.and_then(|_| self.start.checked_add(start)).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.disk.read_exact_at(into, at)
    }

    /// What it holds if that is something known that Berth cannot read.
    fn foreign(&self) -> Option<&'static str> {
        let holds = |at: u64, signature: &[u8]| {
            let mut bytes = vec![0; signature.len()];
            self.read_at(at, &mut bytes).is_ok() && bytes == signature
        };
        FOREIGN.iter().find(|(at, signature, _)| holds(*at, signature)).map(|(.., name)| *name)
    }
}

impl Ext4Read for Window {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.read_at(start, into)?)
    }
}

enum FileSystem {
    Ext4(Ext4),
    Fat(Fat),
}

/// One readable file system.
pub struct Volume {
    fs: FileSystem,
    /// How the kernel is told to find it as its root, where something in the guest knows what the partitions are called.
    pub root_arg: String,
    /// Its device in the guest, whose first disk this is.
    pub device: String,
}

impl Files for Ext4 {
    fn read(&self, path: &str, cap: u64) -> Option<Vec<u8>> {
        let mut file = self.open(path).ok()?;
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
        self.metadata(path).is_ok_and(|info| info.file_type().is_regular_file())
    }

    fn list(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = self.read_dir(directory) else { return Vec::new() };
        let names = entries.take(NAMES_MAX).filter_map(|entry| Some(entry.ok()?.file_name().as_str().ok()?.to_owned()));
        names.filter(|name| name != "." && name != "..").collect()
    }
}

impl Files for Volume {
    fn read(&self, path: &str, cap: u64) -> Option<Vec<u8>> {
        self.files().read(path, cap)
    }

    fn is_file(&self, path: &str) -> bool {
        self.files().is_file(path)
    }

    fn list(&self, directory: &str) -> Vec<String> {
        self.files().list(directory)
    }
}

impl Volume {
    fn load(window: Window, root_arg: String, device: String) -> Option<Self> {
        let ext4 = Ext4::load(Box::new(window.clone())).ok().map(FileSystem::Ext4);
        let fs = ext4.or_else(|| Fat::load(window).map(FileSystem::Fat))?;
        Some(Self { fs, root_arg, device })
    }

    fn files(&self) -> &dyn Files {
        match &self.fs {
            FileSystem::Ext4(fs) => fs,
            FileSystem::Fat(fs) => fs,
        }
    }

    /// Whether this is a root file system rather than one for `/boot`.
    pub fn is_root(&self) -> bool {
        match &self.fs {
            FileSystem::Ext4(fs) => fs.metadata("/etc").is_ok_and(|info| info.is_dir()),
            FileSystem::Fat(_) => false,
        }
    }

    /// The first `length` bytes of a regular file, or all of it if it is shorter.
    pub fn read_start(&self, path: &str, length: usize) -> Option<Vec<u8>> {
        let FileSystem::Ext4(fs) = &self.fs else {
            return self.read(path, u64::MAX - 1).map(|content| content[..content.len().min(length)].to_vec());
        };
        let mut file = fs.open(path).ok().filter(|_| self.is_file(path))?;
        let mut content = vec![0; length];
        let mut done = 0;
        while done < length {
            match file.read_bytes(&mut content[done..]).ok()? {
                0 => break,
                count => done += count,
            }
        }
        content.truncate(done);
        Some(content)
    }

    /// Changes whenever a regular file is written or replaced; `None` if there is no such file, or the file system
    /// does not keep exact times.
    pub fn identity(&self, path: &str) -> Option<String> {
        let FileSystem::Ext4(fs) = &self.fs else { return None };
        let canonical = self.canonical(path)?;
        let info = fs.metadata(&*canonical).ok().filter(|info| info.file_type().is_regular_file())?;
        let times = (info.modified(), info.created()?);
        Some(format!("{} {canonical} {} {times:?}", fs.uuid(), info.len()))
    }

    /// Path of file system member `path` with links resolved.
    pub fn canonical(&self, path: &str) -> Option<String> {
        match &self.fs {
            FileSystem::Ext4(fs) => fs.canonicalize(path).ok()?.to_str().ok().map(str::to_owned),
            FileSystem::Fat(_) => Some(path.to_owned()),
        }
    }
}

/// What is on a disk.
pub struct Contents {
    /// File systems that can be read, in order of partitions.
    pub volumes: Vec<Volume>,
    /// Partitions with something else, each as a text for people.
    pub foreign: Vec<String>,
}

impl Contents {
    /// Names what could not be read, to be put behind a complaint.
    pub fn unread(&self) -> String {
        match &self.foreign[..] {
            [] => String::new(),
            foreign => format!("; Berth reads ext4 and FAT only, and {}", foreign.join(", ")),
        }
    }
}

/// Looks at `disk`.
pub fn contents(disk: File) -> JobResult<Contents> {
    let length = disk.metadata().map_err(Failure::from_io("look at the disk"))?.len();
    let whole = Window { disk: Rc::new(disk), start: 0, length };
    // Before FAT, whose first sector may look like a table of partitions.
    if let Ok(fs) = Ext4::load(Box::new(whole.clone())) {
        let root = Volume { fs: FileSystem::Ext4(fs), root_arg: format!("root={DEVICE}"), device: DEVICE.to_owned() };
        return Ok(Contents { volumes: vec![root], foreign: Vec::new() });
    }
    let Some(partitions) = table::partitions(&whole.disk, length) else {
        let what = whole.foreign().map_or("neither an ext4 file system nor a table of partitions", |name| name);
        return Err(Failure::invalid(format!(
            "the disk holds {what}; Berth boots kernels from ext4 or FAT, on a whole disk or in partitions"
        )));
    };
    let mut contents = Contents { volumes: Vec::new(), foreign: Vec::new() };
    for part in partitions {
        let window = Window { start: part.start, length: part.length, ..whole.clone() };
        if let Some(name) = window.foreign() {
            contents.foreign.push(format!("partition {} holds {name}", part.number));
            continue;
        }
        let root_arg = format!("root=PARTUUID={}", part.uuid);
        contents.volumes.extend(Volume::load(window, root_arg, format!("{DEVICE}{}", part.number)));
    }
    Ok(contents)
}
