//! Unpacking a tar archive somebody sent.
//!
//! Runs confined; still no entry is written anywhere but below the given directory: every parent is resolved with
//! the directory as root, so absolute links and `..` in links end inside it.

use std::io::{self, Read};
use std::ops::ControlFlow;

use tar::{EntryType, Header};

use super::budget::Budget;
use super::owners::Owners;
use super::pax::Records;
use super::stream::Stream;
use super::tree::{Attributes, Tree};
use crate::wire::{Failure, JobResult};

/// Largest extended header (names and extended attributes) of one entry.
const HEADER_MAX: u64 = 1 << 20;

/// What unpacking left out.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Entries written.
    pub written: u64,
    /// Device nodes left out.
    pub devices: u64,
}

/// What to do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Unpack it.
    Take,
    /// Leave it out.
    Skip,
}

#[derive(Default)]
struct Extended {
    records: Records,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

/// Splits a member's name into its components. Leading slashes and `.` go away; a name that climbs is refused.
pub fn components(name: &[u8]) -> Option<Vec<&[u8]>> {
    let parts: Vec<&[u8]> = name.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    (!parts.iter().any(|part| *part == b".." || part.contains(&0))).then_some(parts)
}

/// What becomes of members that are not simply written.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Which device nodes are made.
    pub devices: Devices,
    /// Whose ids the archive has.
    pub owners: Owners,
}

/// Which device nodes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Devices {
    /// None: every instance gets its own.
    None,
    /// Those that give nobody anything, wherever they are: what a container may make itself ([`HARMLESS`]).
    Harmless,
}

/// Major and minor number of the character devices that a container may have anywhere: overlayfs' whiteout, `null`, `zero`,
/// `full`, `random`, `urandom` and `tty` (Documentation/admin-guide/devices.txt).
const HARMLESS: [(u32, u32); 7] = [(0, 0), (1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)];

/// Goes through the archive and unpacks what `choose` takes into `tree`.
pub fn unpack(
    archive: impl Read,
    tree: &mut Tree,
    budget: &mut Budget,
    choose: &mut dyn FnMut(&[Vec<u8>]) -> Choice,
) -> JobResult<Summary> {
    let mut summary = Summary::default();
    let rules = Rules { devices: Devices::None, owners: Owners::default() };
    visit(archive, budget, &mut |member, budget| {
        let parts = member.parts()?;
        if choose(&parts) == Choice::Take {
            write(member, &parts, 0, tree, budget, &rules, &mut summary)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    tree.finish().map_err(Failure::from_io("set the times of directories"))?;
    Ok(summary)
}

/// One member with its full name.
pub struct Member<'a> {
    header: Header,
    extended: Extended,
    size: u64,
    content: io::Take<&'a mut dyn Read>,
}

impl Member<'_> {
    /// Its kind.
    pub fn kind(&self) -> EntryType {
        self.header.entry_type()
    }

    /// Its size.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> Vec<u8> {
        let from_records = || self.extended.records.get("path").map(<[u8]>::to_vec);
        from_records().or_else(|| self.extended.name.clone()).unwrap_or_else(|| self.header.path_bytes().into_owned())
    }

    fn link(&self) -> Vec<u8> {
        let from_records = || self.extended.records.get("linkpath").map(<[u8]>::to_vec);
        let from_header = || self.header.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
        from_records().or_else(|| self.extended.link.clone()).unwrap_or_else(from_header)
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.name()).into_owned()
    }

    /// The components of its name.
    pub fn parts(&self) -> JobResult<Vec<Vec<u8>>> {
        let name = self.name();
        let parts = components(&name).ok_or_else(|| {
            Failure::invalid(format!("the archive holds \"{}\", a name that leads out of it", self.shown()))
        })?;
        Ok(parts.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// Its content, if it is a regular file of at most `cap` bytes.
    pub fn content(&mut self, cap: u64) -> JobResult<Vec<u8>> {
        if !self.kind().is_file() {
            return Err(Failure::invalid(format!("\"{}\" in the archive is not a regular file", self.shown())));
        }
        if self.size() > cap {
            return Err(Failure::invalid(format!(
                "\"{}\" in the archive has {} bytes, more than the {cap} allowed",
                self.shown(),
                self.size()
            )));
        }
        let mut content = Vec::new();
        self.content.read_to_end(&mut content).map_err(broken)?;
        if content.len() as u64 != self.size() {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(content)
    }

    /// Writes its content to `out`.
    pub fn copy_to(&mut self, out: &mut impl io::Write) -> JobResult<()> {
        let size = self.size();
        match io::copy(&mut self.content, out) {
            Ok(count) if count == size => Ok(()),
            Ok(_) => Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Err(e) => Err(Failure::from_io(format!("unpack \"{}\"", self.shown()))(e)),
        }
    }

    /// The number of the device it is, if that is one of the [`HARMLESS`].
    fn harmless(&self) -> Option<u64> {
        let number = |value: io::Result<Option<u32>>| value.ok().flatten();
        let device = (number(self.header.device_major())?, number(self.header.device_minor())?);
        let known = self.kind() == EntryType::Char && HARMLESS.contains(&device);
        known.then(|| rustix::fs::makedev(device.0, device.1))
    }

    fn attributes(&self) -> JobResult<Attributes> {
        let header = &self.header;
        let records = &self.extended.records;
        let id = |key: &str, value: io::Result<u64>| -> JobResult<u32> {
            let value = records.number(key).map_or(value, |n| u64::try_from(n).map_err(io::Error::other));
            let id = value.ok().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
            id.ok_or_else(|| Failure::invalid(format!("\"{}\" in the archive has no valid {key}", self.shown())))
        };
        let mode = header.mode().map_err(broken)?;
        let mtime = records.number("mtime").or_else(|| header.mtime().ok().and_then(|t| i64::try_from(t).ok()));
        Ok(Attributes {
            uid: id("uid", header.uid())?,
            gid: id("gid", header.gid())?,
            mode: mode & 0o7777,
            mtime: mtime.unwrap_or(0),
            extended: records.attributes().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
        })
    }
}

fn broken(error: io::Error) -> Failure {
    Failure::invalid(format!("the archive is damaged or cut short: {error}; upload it again"))
}

/// A name that cannot be made where it is to be is the archive's fault: its own links are in the way.
fn cannot_write(shown: &str, error: io::Error) -> Failure {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::AlreadyExists
        | Kind::NotFound
        | Kind::NotADirectory
        | Kind::IsADirectory
        | Kind::DirectoryNotEmpty
        | Kind::InvalidFilename
        | Kind::InvalidInput
        | Kind::TooManyLinks => {
            Failure::invalid(format!("\"{shown}\" in the archive contradicts its other entries: {error}"))
        }
        _ if error.raw_os_error() == Some(libc::ELOOP) => {
            Failure::invalid(format!("\"{shown}\" in the archive lies behind a loop of links"))
        }
        _ => Failure::from_io(format!("unpack \"{shown}\""))(error),
    }
}

/// Calls `each` for every member until it breaks off; counts entries and what is passed over.
pub fn visit(
    archive: impl Read,
    budget: &mut Budget,
    each: &mut dyn FnMut(&mut Member<'_>, &mut Budget) -> JobResult<ControlFlow<()>>,
) -> JobResult<()> {
    let mut archive = Stream::new(archive);
    let mut extended = Extended::default();
    let mut seen = false;
    while let Some(header) = archive.header().map_err(broken)? {
        seen = true;
        let kind = header.entry_type();
        let mut size = header.entry_size().map_err(broken)?;
        if kind.is_pax_local_extensions() {
            let data = header_data(&mut archive, size)?;
            extended.records = Records::parse(&data).ok_or_else(|| broken(io::Error::other("bad extended header")))?;
        } else if kind.is_gnu_longname() {
            extended.name = Some(without_nul(header_data(&mut archive, size)?));
        } else if kind.is_gnu_longlink() {
            extended.link = Some(without_nul(header_data(&mut archive, size)?));
        } else if kind.is_pax_global_extensions() {
            header_data(&mut archive, size)?;
        } else {
            budget.take_entry()?;
            if let Some(told) = extended.records.number("size") {
                size = u64::try_from(told).map_err(|_| broken(io::Error::other("bad size")))?;
            }
            let extended = std::mem::take(&mut extended);
            let mut member = Member { header, extended, size, content: archive.content(size) };
            refuse_sparse(&member)?;
            if each(&mut member, budget)?.is_break() {
                return Ok(());
            }
            let rest = io::copy(&mut member.content, &mut io::sink()).map_err(broken)?;
            budget.take_bytes(rest)?;
            if member.content.limit() > 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        archive.pad(size).map_err(broken)?;
    }
    if seen { Ok(()) } else { Err(Failure::invalid("the archive is empty or no tar archive")) }
}

/// Sparse files are kept in ways of their own by each variant of tar.
fn refuse_sparse(member: &Member<'_>) -> JobResult<()> {
    if member.extended.records.sparse() || member.kind().is_gnu_sparse() {
        return Err(Failure::invalid(format!(
            "\"{}\" in the archive is stored as a sparse file; make the archive without -S",
            member.shown()
        )));
    }
    Ok(())
}

fn header_data(archive: &mut Stream<impl Read>, size: u64) -> JobResult<Vec<u8>> {
    if size > HEADER_MAX {
        return Err(Failure::invalid("the archive holds an oversized extended header"));
    }
    let mut data = Vec::new();
    let count = archive.content(size).read_to_end(&mut data).map_err(broken)?;
    if count as u64 == size { Ok(data) } else { Err(broken(io::ErrorKind::UnexpectedEof.into())) }
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(name.iter().position(|&b| b == 0).unwrap_or(name.len()));
    name
}

/// Unpacks a member whose name is `parts` into `tree`, without the first `top` of them.
pub fn write(
    member: &mut Member<'_>,
    parts: &[Vec<u8>],
    top: usize,
    tree: &mut Tree,
    budget: &mut Budget,
    rules: &Rules,
    summary: &mut Summary,
) -> JobResult<()> {
    let kind = member.kind();
    let shown = member.shown();
    let Some((name, parent)) = parts[top.min(parts.len())..].split_last() else {
        // The directory itself, which is there already.
        return Ok(());
    };
    let failed = |error| cannot_write(&shown, error);
    if matches!(kind, EntryType::Link) {
        let link = member.link();
        let to = components(&link).filter(|to| to.len() > top && to[..top].iter().eq(&parts[..top]));
        let to = to.ok_or_else(|| {
            Failure::invalid(format!("\"{shown}\" in the archive links to a name that leads out of it"))
        })?;
        tree.hard_link(parent, name, &to[top..]).map_err(failed)?;
        summary.written += 1;
        return Ok(());
    }
    let link = member.link();
    let mut attributes = member.attributes()?;
    rules.owners.apply(&mut attributes);
    match kind {
        EntryType::Directory => tree.directory(parent, name, &attributes).map_err(failed)?,
        EntryType::Symlink => tree.symlink(parent, name, &link, &attributes).map_err(failed)?,
        EntryType::Fifo => tree.fifo(parent, name, &attributes).map_err(failed)?,
        EntryType::Regular | EntryType::Continuous => {
            let size = member.size();
            budget.check_size(size)?;
            let room = budget.bytes_left();
            let written = tree.file(parent, name, &mut member.content, size, room, &attributes);
            let written = written.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => broken(error),
                io::ErrorKind::QuotaExceeded => budget.too_big(),
                _ => cannot_write(&shown, error),
            })?;
            budget.take_bytes(written)?;
        }
        EntryType::Char | EntryType::Block => {
            let Some(rdev) = member.harmless().filter(|_| rules.devices == Devices::Harmless) else {
                summary.devices += 1;
                return Ok(());
            };
            tree.device(parent, name, rdev, &attributes).map_err(failed)?;
        }
        _ => return Ok(()),
    }
    summary.written += 1;
    Ok(())
}
