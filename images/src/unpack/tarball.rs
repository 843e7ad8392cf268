//! Unpacking a tar archive somebody sent.
//!
//! Runs confined; still no entry is written anywhere but below the given directory: every parent is resolved with
//! the directory as root, so absolute links and `..` in links end inside it.

use std::io::{self, Read};

use tar::EntryType;

use super::budget::Budget;
use super::pax::Records;
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

/// Goes through the archive and unpacks what `choose` takes into `tree`.
pub fn unpack(
    archive: impl Read,
    tree: &mut Tree,
    budget: &mut Budget,
    choose: &mut dyn FnMut(&[Vec<u8>]) -> Choice,
) -> JobResult<Summary> {
    let mut summary = Summary::default();
    visit(archive, budget, &mut |entry, budget| {
        let parts = entry.parts()?;
        if choose(&parts) == Choice::Take {
            write(entry, &parts, tree, budget, &mut summary)?;
        }
        Ok(())
    })?;
    tree.finish().map_err(Failure::from_io("set the times of directories"))?;
    Ok(summary)
}

/// One member with its full name.
pub struct Member<'a, R: Read> {
    inner: tar::Entry<'a, R>,
    extended: Extended,
}

impl<R: Read> Member<'_, R> {
    /// Its kind.
    pub fn kind(&self) -> EntryType {
        self.inner.header().entry_type()
    }

    /// Its size.
    pub fn size(&self) -> u64 {
        self.inner.size()
    }

    fn name(&self) -> Vec<u8> {
        let from_records = || self.extended.records.get("path").map(<[u8]>::to_vec);
        from_records().or_else(|| self.extended.name.clone()).unwrap_or_else(|| self.inner.path_bytes().into_owned())
    }

    fn link(&self) -> Vec<u8> {
        let from_records = || self.extended.records.get("linkpath").map(<[u8]>::to_vec);
        let from_header = || self.inner.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
        from_records().or_else(|| self.extended.link.clone()).unwrap_or_else(from_header)
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.name()).into_owned()
    }

    /// The components of its name.
    pub fn parts(&self) -> JobResult<Vec<Vec<u8>>> {
        let name = self.name();
        let parts = components(&name).ok_or_else(|| {
            Failure::invalid(format!("the image's archive holds \"{}\", a name that leads out of it", self.shown()))
        })?;
        Ok(parts.into_iter().map(<[u8]>::to_vec).collect())
    }

    /// Its content, if it is a regular file of at most `cap` bytes.
    pub fn content(&mut self, cap: u64) -> JobResult<Vec<u8>> {
        if !self.kind().is_file() {
            return Err(Failure::invalid(format!("\"{}\" in the image's archive is not a regular file", self.shown())));
        }
        if self.size() > cap {
            return Err(Failure::invalid(format!(
                "\"{}\" in the image's archive has {} bytes, more than the {cap} allowed",
                self.shown(),
                self.size()
            )));
        }
        let mut content = Vec::new();
        self.inner.read_to_end(&mut content).map_err(broken)?;
        Ok(content)
    }

    /// Writes its content to `out`.
    pub fn copy_to(&mut self, out: &mut impl io::Write) -> JobResult<()> {
        let size = self.size();
        match io::copy(&mut self.inner, out) {
            Ok(count) if count == size => Ok(()),
            Ok(_) => Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Err(e) => Err(Failure::from_io(format!("unpack \"{}\"", self.shown()))(e)),
        }
    }

    fn attributes(&self) -> JobResult<Attributes> {
        let header = self.inner.header();
        let records = &self.extended.records;
        let id = |key: &str, value: io::Result<u64>| -> JobResult<u32> {
            let value = records.number(key).map_or(value, |n| u64::try_from(n).map_err(io::Error::other));
            let id = value.ok().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
            id.ok_or_else(|| {
                Failure::invalid(format!("\"{}\" in the image's archive has no valid {key}", self.shown()))
            })
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
    Failure::invalid(format!("the image's archive is damaged or cut short: {error}; upload it again"))
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
            Failure::invalid(format!("\"{shown}\" in the image's archive contradicts its other entries: {error}"))
        }
        _ if error.raw_os_error() == Some(libc::ELOOP) => {
            Failure::invalid(format!("\"{shown}\" in the image's archive lies behind a loop of links"))
        }
        _ => Failure::from_io(format!("unpack \"{shown}\""))(error),
    }
}

/// Calls `each` for every member; counts entries and what is read of the archive.
pub fn visit<R: Read>(
    archive: R,
    budget: &mut Budget,
    each: &mut dyn FnMut(&mut Member<'_, R>, &mut Budget) -> JobResult<()>,
) -> JobResult<()> {
    let mut archive = tar::Archive::new(archive);
    let mut extended = Extended::default();
    let mut seen = false;
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        seen = true;
        let kind = entry.header().entry_type();
        if kind.is_pax_local_extensions() {
            let data = header_data(&mut entry)?;
            extended.records = Records::parse(&data).ok_or_else(|| broken(io::Error::other("bad extended header")))?;
        } else if kind.is_gnu_longname() {
            extended.name = Some(without_nul(header_data(&mut entry)?));
        } else if kind.is_gnu_longlink() {
            extended.link = Some(without_nul(header_data(&mut entry)?));
        } else if !kind.is_pax_global_extensions() {
            budget.take_entry()?;
            let mut member = Member { inner: entry, extended: std::mem::take(&mut extended) };
            refuse_odd_sizes(&member)?;
            each(&mut member, budget)?;
            let rest = io::copy(&mut member.inner, &mut io::sink()).map_err(broken)?;
            budget.take_bytes(rest)?;
        }
    }
    if seen { Ok(()) } else { Err(Failure::invalid("the image's archive is empty or no tar archive")) }
}

/// Sizes that only the records tell are used for files beyond 8 GiB and for sparse files of one tar variant.
fn refuse_odd_sizes<R: Read>(member: &Member<'_, R>) -> JobResult<()> {
    let records = &member.extended.records;
    let odd = records.number("size").is_some_and(|size| u64::try_from(size) != Ok(member.size()));
    if odd || records.sparse() || member.kind().is_gnu_sparse() {
        return Err(Failure::invalid(format!(
            "\"{}\" in the image's archive is stored as a sparse or oversized file; make the archive without -S",
            member.shown()
        )));
    }
    Ok(())
}

fn header_data(entry: &mut tar::Entry<'_, impl Read>) -> JobResult<Vec<u8>> {
    if entry.size() > HEADER_MAX {
        return Err(Failure::invalid("the image's archive holds an oversized extended header"));
    }
    let mut data = Vec::new();
    entry.read_to_end(&mut data).map_err(broken)?;
    Ok(data)
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    name.truncate(name.iter().position(|&b| b == 0).unwrap_or(name.len()));
    name
}

fn write<R: Read>(
    member: &mut Member<'_, R>,
    parts: &[Vec<u8>],
    tree: &mut Tree,
    budget: &mut Budget,
    summary: &mut Summary,
) -> JobResult<()> {
    let kind = member.kind();
    let shown = member.shown();
    let Some((name, parent)) = parts.split_last() else {
        // The top of the archive is the directory itself, which is there already.
        return Ok(());
    };
    let failed = |error| cannot_write(&shown, error);
    if matches!(kind, EntryType::Block | EntryType::Char) {
        summary.devices += 1;
        return Ok(());
    }
    if matches!(kind, EntryType::Link) {
        let link = member.link();
        let to = components(&link).filter(|to| !to.is_empty()).ok_or_else(|| {
            Failure::invalid(format!("\"{shown}\" in the image's archive links to a name that leads out of it"))
        })?;
        tree.hard_link(parent, name, &to).map_err(failed)?;
        summary.written += 1;
        return Ok(());
    }
    let link = member.link();
    let attributes = member.attributes()?;
    match kind {
        EntryType::Directory => tree.directory(parent, name, &attributes).map_err(failed)?,
        EntryType::Symlink => tree.symlink(parent, name, &link, &attributes).map_err(failed)?,
        EntryType::Fifo => tree.fifo(parent, name, &attributes).map_err(failed)?,
        EntryType::Regular | EntryType::Continuous => {
            budget.take_bytes(member.size())?;
            let size = member.size();
            tree.file(parent, name, &mut member.inner, size, &attributes).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => broken(error),
                _ => cannot_write(&shown, error),
            })?;
        }
        _ => return Ok(()),
    }
    summary.written += 1;
    Ok(())
}
