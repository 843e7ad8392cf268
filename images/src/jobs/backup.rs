//! Backups of instances: an archive of the volumes of an instance and its snapshots, in LXD's layout.
//!
//! `backup/index.yaml` comes first. The content of a container is below `backup/container/`, that of its snapshots below
//! `backup/snapshots/NAME/`. A virtual machine has its disk as `backup/virtual-machine.img` and what else there is below
//! `backup/virtual-machine/`; its snapshots are `backup/virtual-machine-snapshots/NAME.img` and `NAME/`.

use std::ffi::CString;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::backup::format::{self, BackupKind, Contents, Description, INDEX_MAX, Index};
use crate::confine::{self, Bind, Confinement, Filter};
use crate::jobs;
use crate::pack::{Archive, Compression, Compressor};
use crate::unpack::budget::Budget;
use crate::unpack::check::{self, METADATA_MAX};
use crate::unpack::owners::Owners;
use crate::unpack::tarball::{self, Devices, Member, Rules, Summary};
use crate::unpack::tree::{self, Tree};
use crate::unpack::{archive, check::read_plain};
use crate::wire::{self, Failure, JobResult};

/// Largest file in a backup with its holes: a large disk of a virtual machine.
const FILE_MAX: u64 = 16 << 40;
/// Most files, directories and links in a backup, all snapshots together.
const ENTRIES_MAX: u64 = 20_000_000;

/// Processor time for a backup, which may be as large as disks are.
const SECONDS: u64 = 24 * 3600;

/// Name of a virtual machine's disk in its volume.
const DISK: &str = "root.img";
/// What of a volume is in a backup, besides the disk.
const CONTENT: [&str; 3] = ["metadata.yaml", "rootfs", "templates"];
/// The member that tells what is in the archive.
const INDEX: &str = "backup/index.yaml";
/// Name of the file beside the content that tells the same.
const BESIDE: &str = "backup.yaml";

/// The volumes of an instance, where they are outside.
#[derive(Debug, Clone, clap::Args)]
pub struct Volumes {
    /// Kind of the instance.
    #[arg(long)]
    pub kind: BackupKind,
    /// Its own volume.
    #[arg(long)]
    pub volume: PathBuf,
    /// Names of its snapshots.
    #[arg(long = "snapshot", allow_hyphen_values = true)]
    pub snapshots: Vec<String>,
    /// Their volumes, in the same order.
    #[arg(long = "at")]
    pub places: Vec<PathBuf>,
}

/// One volume inside the confinement.
struct Part {
    /// Name of the snapshot; none for the instance.
    snapshot: Option<String>,
    /// Place inside.
    place: String,
}

impl Volumes {
    /// The volumes inside and what makes them visible there. The snapshots come first, as LXD has it.
    fn parts(&self, bind: fn(&Path, &str) -> Bind) -> JobResult<(Vec<Part>, Vec<Bind>)> {
        if self.snapshots.len() != self.places.len() {
            return Err(Failure::internal("not every snapshot of the backup has a place"));
        }
        let mut parts = Vec::new();
        let mut binds = Vec::new();
        for (number, (name, place)) in self.snapshots.iter().zip(&self.places).enumerate() {
            let inside = format!("snapshots/{number}");
            binds.push(bind(place, &inside));
            parts.push(Part { snapshot: Some(name.clone()), place: format!("/{inside}") });
        }
        binds.push(bind(&self.volume, "volume"));
        parts.push(Part { snapshot: None, place: "/volume".to_owned() });
        Ok((parts, binds))
    }
}

/// Where a part's files are in the archive; its disk is there too, with an ending.
fn top(kind: BackupKind, snapshot: Option<&str>) -> String {
    match (kind, snapshot) {
        (BackupKind::Container, None) => "backup/container".to_owned(),
        (BackupKind::Container, Some(name)) => format!("backup/snapshots/{name}"),
        (BackupKind::VirtualMachine, None) => "backup/virtual-machine".to_owned(),
        (BackupKind::VirtualMachine, Some(name)) => format!("backup/virtual-machine-snapshots/{name}"),
    }
}

/// Writes an archive to `out`; `index` is the file with the text of its first member.
pub fn pack(volumes: &Volumes, index: &Path, compression: Compression, out: OwnedFd) -> JobResult<i32> {
    let text = std::fs::read(index).map_err(Failure::from_io("read the description of the backup"))?;
    let (parts, binds) = volumes.parts(Bind::readable)?;
    let confinement = Confinement { seconds: SECONDS, ..jobs::restoring(binds, u64::MAX) };
    let kind = volumes.kind;
    jobs::confined(&confinement, || {
        let write = || -> std::io::Result<()> {
            let parsed: Index = format::read(INDEX, &text).map_err(|e| std::io::Error::other(e.message))?;
            let mut archive = Archive::new(Compressor::new(File::from(out), compression)?);
            archive.add(INDEX, &text)?;
            for part in &parts {
                add(&mut archive, kind, part, parsed.config.as_ref())?;
            }
            archive.finish()?.finish()
        };
        write().map_err(Failure::from_io("write the backup"))?;
        Ok::<Value, _>(json!({}))
    })
}

fn add(
    archive: &mut Archive<Compressor>,
    kind: BackupKind,
    part: &Part,
    contents: Option<&Contents>,
) -> std::io::Result<()> {
    let top = top(kind, part.snapshot.as_deref());
    let volume = tree::open_directory(&part.place)?;
    archive.add_directory(&format!("{top}/"))?;
    if let Some(contents) = contents.filter(|_| part.snapshot.is_none()) {
        let text = format::write(contents).map_err(std::io::Error::other)?;
        archive.add(&format!("{top}/{BESIDE}"), text.as_bytes())?;
    }
    for name in CONTENT {
        let place = Path::new(&top).join(name);
        archive.add_tree(volume.as_fd(), &CString::new(name).map_err(std::io::Error::other)?, &place)?;
    }
    if kind == BackupKind::VirtualMachine {
        let disk = CString::new(DISK).map_err(std::io::Error::other)?;
        archive.add_tree(volume.as_fd(), &disk, Path::new(&format!("{top}.img")))?;
    }
    Ok(())
}

/// Tells what is in the backup `path`.
pub fn describe(path: &Path) -> JobResult<i32> {
    let archive = jobs::open(path)?;
    // A decompressor may be a program.
    let confinement = Confinement {
        tools: true,
        filter: Filter::Tools,
        memory: jobs::TOOLS_MEMORY,
        seconds: SECONDS,
        ..jobs::parsing()
    };
    jobs::confined(&confinement, || described(archive::open(archive)?))
}

fn described(archive: impl std::io::Read) -> JobResult<Description> {
    let mut budget = Budget::new(u64::MAX, ENTRIES_MAX);
    let mut index: Option<Index> = None;
    let mut contents: Option<Contents> = None;
    tarball::visit(archive, &mut budget, &mut |member, _| {
        let parts = member.parts()?;
        match parts.join(&b'/').as_slice() {
            name if name == INDEX.as_bytes() => {
                let mut read: Index = format::read(INDEX, &member.content(INDEX_MAX)?)?;
                contents = read.config.take();
                index = Some(read);
            }
            b"backup/container/backup.yaml" | b"backup/virtual-machine/backup.yaml" if contents.is_none() => {
                contents = Some(format::read(BESIDE, &member.content(INDEX_MAX)?)?);
            }
            _ => {}
        }
        // Newer ones tell all in their first member.
        Ok(if index.is_some() && contents.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let index = index.ok_or_else(|| {
        Failure::invalid("Backup is missing index.yaml: the file is no backup of an instance, or an image")
    })?;
    let contents = contents.ok_or_else(|| Failure::invalid("the backup does not hold the instance's backup.yaml"))?;
    Description::of(index, contents)
}

/// Unpacks the backup `path` into empty directories that can become volumes. Each snapshot and at last the instance has one of
/// `idmaps` ([`Owners`]). A disk may have `disk_max` bytes.
pub fn unpack(path: &Path, volumes: &Volumes, idmaps: &[String], disk_max: u64) -> JobResult<i32> {
    let archive = jobs::open(path)?;
    let room = confine::room(jobs::open(&volumes.volume)?, u64::MAX).map_err(Failure::from_io("look at free space"))?;
    let (parts, binds) = volumes.parts(Bind::writable)?;
    let confinement = Confinement {
        capabilities: confine::RESTORE_DEVICES,
        filter: Filter::Restore,
        seconds: SECONDS,
        ..jobs::restoring(binds, FILE_MAX)
    };
    let kind = volumes.kind;
    jobs::confined(&confinement, || {
        let mut budget = Budget::with_holes(room, ENTRIES_MAX, FILE_MAX);
        wire::progress("unpack", None, "Unpacking the backup");
        let mut restore = Restore::begin(kind, &parts, idmaps, disk_max)?;
        tarball::visit(archive::open(archive)?, &mut budget, &mut |member, budget| restore.member(member, budget))?;
        let summary = restore.finish()?;
        Ok::<Value, _>(json!({ "devices_left_out": summary.devices }))
    })
}

/// An archive that is being unpacked.
struct Restore {
    kind: BackupKind,
    targets: Vec<Target>,
    disk_max: u64,
    summary: Summary,
}

/// A volume that is being filled.
struct Target {
    snapshot: Option<String>,
    place: String,
    tree: Tree,
    rules: Rules,
}

/// Where a member goes: number of the volume and how many components of the name lead to it.
struct Way {
    target: usize,
    top: usize,
    disk: bool,
}

impl Restore {
    fn begin(kind: BackupKind, parts: &[Part], idmaps: &[String], disk_max: u64) -> JobResult<Self> {
        let open = |(number, part): (usize, &Part)| {
            let directory =
                tree::open_directory(&part.place).map_err(Failure::from_io("open the directory to fill"))?;
            let owners = Owners::parse(idmaps.get(number).map(String::as_str).unwrap_or_default())?;
            Ok(Target {
                snapshot: part.snapshot.clone(),
                place: part.place.clone(),
                tree: Tree::new(directory),
                rules: Rules { devices: Devices::Harmless, owners },
            })
        };
        let targets = parts.iter().enumerate().map(open).collect::<JobResult<_>>()?;
        Ok(Self { kind, targets, disk_max, summary: Summary::default() })
    }

    fn member(&mut self, member: &mut Member<'_>, budget: &mut Budget) -> JobResult<ControlFlow<()>> {
        let mut parts = member.parts()?;
        if let Some(way) = self.way(&parts, member.kind().is_file()) {
            if way.disk {
                if member.size() > self.disk_max {
                    return Err(Failure::invalid(format!(
                        "the disk in the backup has {} bytes, and the root disk is to have {} only; raise its size",
                        member.size(),
                        self.disk_max
                    )));
                }
                parts.truncate(way.top);
                parts.push(DISK.as_bytes().to_vec());
            }
            let Target { tree, rules, .. } = &mut self.targets[way.target];
            tarball::write(member, &parts, way.top, tree, budget, rules, &mut self.summary)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// `None` for what is not wanted.
    fn way(&self, parts: &[Vec<u8>], file: bool) -> Option<Way> {
        let names: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let (snapshot, top) = match (self.kind, names.as_slice()) {
            (BackupKind::VirtualMachine, [b"backup", b"virtual-machine.img"]) if file => {
                return Some(Way { target: self.target(None)?, top: 1, disk: true });
            }
            (BackupKind::VirtualMachine, [b"backup", b"virtual-machine-snapshots", name]) if file => {
                let name = name.strip_suffix(b".img")?;
                return Some(Way { target: self.target(Some(name))?, top: 2, disk: true });
            }
            (BackupKind::Container, [b"backup", b"container", _, ..])
            | (BackupKind::VirtualMachine, [b"backup", b"virtual-machine", _, ..]) => (None, 2),
            (BackupKind::Container, [b"backup", b"snapshots", name, _, ..])
            | (BackupKind::VirtualMachine, [b"backup", b"virtual-machine-snapshots", name, _, ..]) => (Some(*name), 3),
            _ => return None,
        };
        let wanted = match (self.kind, names[top]) {
            (_, b"metadata.yaml") => names.len() == top + 1,
            (_, b"templates") | (BackupKind::Container, b"rootfs") => true,
            _ => false,
        };
        wanted.then_some(Way { target: self.target(snapshot)?, top, disk: false })
    }

    fn target(&self, snapshot: Option<&[u8]>) -> Option<usize> {
        self.targets.iter().position(|target| target.snapshot.as_deref().map(str::as_bytes) == snapshot)
    }

    /// Sees to it that all is there and on disk.
    fn finish(mut self) -> JobResult<Summary> {
        for target in &mut self.targets {
            target.tree.finish().map_err(Failure::from_io("set the times of directories"))?;
            let directory =
                tree::open_directory(&target.place).map_err(Failure::from_io("open the directory to fill"))?;
            let whose = match &target.snapshot {
                Some(name) => format!("the snapshot \"{}\"", name.escape_debug()),
                None => "the instance".to_owned(),
            };
            complete(self.kind, &directory, &whose)?;
            rustix::fs::syncfs(&directory).map_err(|e| Failure::from_io("write the volume to disk")(e.into()))?;
        }
        Ok(self.summary)
    }
}

/// Checks a filled volume before anybody else opens files in it.
fn complete(kind: BackupKind, directory: &OwnedFd, whose: &str) -> JobResult<()> {
    use rustix::fs::{AtFlags, FileType};
    let content = match kind {
        BackupKind::Container => ("rootfs", FileType::Directory),
        BackupKind::VirtualMachine => (DISK, FileType::RegularFile),
    };
    let found = rustix::fs::statat(directory, content.0, AtFlags::SYMLINK_NOFOLLOW);
    if !found.is_ok_and(|info| FileType::from_raw_mode(info.st_mode) == content.1) {
        let what = if kind == BackupKind::Container { "root file system" } else { "disk" };
        return Err(Failure::invalid(format!("the backup does not hold the {what} of {whose}; make it again")));
    }
    match read_plain(directory, CONTENT[0], METADATA_MAX) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::invalid(format!("metadata.yaml of {whose} in the backup cannot be used: {e}")));
        }
        _ => {}
    }
    check::templates(directory)
}
