//! Serves [`FileRequest`]s on the calling process's own file system.
//!
//! Who calls decides what may be touched: the agent in a virtual machine serves `/`, the container helper has
//! become container root and serves the container's root file system. Every path is resolved below a root
//! descriptor with `RESOLVE_IN_ROOT`, so that `..` and links, absolute ones too, stay inside. Only regular files are
//! opened for reading or writing: a FIFO or a device cannot block the server or be set off by it.

mod error;
mod paths;
mod tree;

use std::{
    fs::File,
    io::{self, BufWriter, Read, Write},
    os::fd::AsFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid},
    io::Errno,
};

use crate::{
    frame::{self, DATA_CHUNK, Kind, MAX_PAYLOAD},
    protocol::{ErrorKind, FileKind, FileRequest, FileStat, GuestError, Ownership, Reply, Request, WriteMode},
};
use error::{Context, failure};
use paths::Root;

/// Bytes of names that a listing may hold; leaves room for quotes, escapes and the message around them.
const MAX_LISTING: usize = MAX_PAYLOAD / 2;

/// Mode of a new regular file if the host gives none.
const FILE_MODE: u32 = 0o644;
/// Mode of a new directory if the host gives none.
const DIRECTORY_MODE: u32 = 0o755;

/// Reads one [`Request::Files`] from `stream` and serves it below `root`.
///
/// A failed request is answered with [`Reply::Error`] and is no error here; an error means that the connection broke.
pub fn serve(stream: &mut (impl Read + Write), root: &Path) -> io::Result<()> {
    let Some(first) = frame::read(stream)? else { return Ok(()) };
    match first.parse::<Request>() {
        Ok(Request::Files(request)) => serve_request(stream, root, request),
        Ok(_) => {
            let text = "only file requests are served here; send exec and state requests to the guest's agent";
            frame::write_json(stream, &Reply::Error(failure(ErrorKind::NotSupported, text)))
        }
        Err(e) => frame::write_json(stream, &Reply::Error(failure(ErrorKind::Invalid, e.to_string()))),
    }
}

/// Serves a request that was read already; see [`serve`].
pub fn serve_request(stream: &mut (impl Read + Write), root: &Path, request: FileRequest) -> io::Result<()> {
    let root = match Root::open(root) {
        Ok(root) => root,
        Err(e) => return frame::write_json(stream, &Reply::Error(e)),
    };
    let answer = match request {
        FileRequest::Read { path } => return read(stream, &root, &path),
        FileRequest::Write { path, mode, ownership } => return write(stream, &root, &path, mode, ownership),
        FileRequest::Stat { path } => stat(&root, &path).map(Reply::File),
        FileRequest::MakeDirectory { path, ownership } => make_directory(&root, &path, ownership).map(|()| Reply::Done),
        FileRequest::Symlink { path, target, ownership } => {
            symlink(&root, &path, &target, ownership).map(|()| Reply::Done)
        }
        FileRequest::Delete { path, recursive } => tree::delete(&root, &path, recursive).map(|()| Reply::Done),
    };
    frame::write_json(stream, &answer.unwrap_or_else(Reply::Error))
}

/// What a read found.
enum Content {
    File(File),
    Directory(Vec<String>),
    Link(Vec<u8>),
}

fn read(stream: &mut (impl Read + Write), root: &Root, path: &str) -> io::Result<()> {
    let (stat, content) = match open_for_reading(root, path) {
        Ok(opened) => opened,
        Err(e) => return frame::write_json(stream, &Reply::Error(e)),
    };
    // One packet a frame instead of one for the header and one for the payload.
    let mut out = BufWriter::with_capacity(DATA_CHUNK + 16, stream);
    frame::write_json(&mut out, &Reply::File(stat))?;
    match content {
        Content::Directory(names) => return frame::write_json(&mut out, &Reply::Entries(names)),
        Content::Link(target) => frame::write(&mut out, Kind::Data, &target)?,
        Content::File(mut file) => {
            let mut buffer = vec![0; DATA_CHUNK];
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => frame::write(&mut out, Kind::Data, &buffer[..n])?,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    // An error in the midst of the content takes the place of the closing empty frame.
                    Err(e) => return frame::write_json(&mut out, &Reply::Error(error::io(&e, "read", path))),
                }
            }
        }
    }
    frame::write(&mut out, Kind::Data, &[])
}

fn open_for_reading(root: &Root, path: &str) -> Result<(FileStat, Content), GuestError> {
    let probe = root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, 0).context("open", path)?;
    let stat = rustix::fs::fstat(&probe).context("stat", path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&probe, c"", Vec::new()).context("read the link", path)?;
            return Ok((describe(&stat), Content::Link(target.into_bytes())));
        }
        FileType::RegularFile | FileType::Directory => {}
        _ => return Err(not_regular(path, "read")),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = root.open_at(path, flags, 0).context("open", path)?;
    // The descriptor that will be read counts, not the probe: the path may have changed in between.
    let stat = rustix::fs::fstat(&opened).context("stat", path)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((describe(&stat), Content::File(File::from(opened)))),
        FileType::Directory => Ok((describe(&stat), Content::Directory(list(opened, path)?))),
        _ => Err(not_regular(path, "read")),
    }
}

fn list(directory: impl AsFd, path: &str) -> Result<Vec<String>, GuestError> {
    let mut names = Vec::new();
    let mut bytes = 0;
    for entry in Dir::read_from(directory).context("list", path)? {
        let entry = entry.context("list", path)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        // Messages are text: a name that is no UTF-8 shows its odd bytes as replacement characters.
        let name = String::from_utf8_lossy(name).into_owned();
        bytes += name.len() + 3;
        if bytes > MAX_LISTING {
            let text =
                format!("cannot list {path:?}: its names take more than {MAX_LISTING} bytes; list it by a program");
            return Err(failure(ErrorKind::NotSupported, text));
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

fn stat(root: &Root, path: &str) -> Result<FileStat, GuestError> {
    let probe = root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, 0).context("stat", path)?;
    Ok(describe(&rustix::fs::fstat(&probe).context("stat", path)?))
}

fn write(
    stream: &mut (impl Read + Write),
    root: &Root,
    path: &str,
    mode: WriteMode,
    ownership: Ownership,
) -> io::Result<()> {
    let mut file = match open_for_writing(root, path, mode, ownership) {
        Ok(file) => file,
        Err(e) => return frame::write_json(stream, &Reply::Error(e)),
    };
    frame::write_json(stream, &Reply::Ready)?;
    let mut failed = false;
    loop {
        let Some(frame) = frame::read(stream)? else { return Ok(()) };
        if frame.kind != Kind::Data {
            let text = format!("content of {path:?} was expected, not a frame of kind {:?}", frame.kind);
            return frame::write_json(stream, &Reply::Error(failure(ErrorKind::Invalid, text)));
        }
        if frame.payload.is_empty() {
            break;
        }
        // After a failure the rest is read and dropped, so that the host gets to read the answer.
        if failed {
            continue;
        }
        if let Err(e) = file.write_all(&frame.payload) {
            failed = true;
            frame::write_json(stream, &Reply::Error(error::io(&e, "write", path)))?;
        }
    }
    if failed { Ok(()) } else { frame::write_json(stream, &Reply::Done) }
}

fn open_for_writing(root: &Root, path: &str, mode: WriteMode, ownership: Ownership) -> Result<File, GuestError> {
    check_mode(ownership)?;
    let exists = match root.open_at(path, OFlags::PATH, 0) {
        Ok(probe) => {
            let stat = rustix::fs::fstat(&probe).context("stat", path)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => true,
                FileType::Directory => {
                    return Err(failure(ErrorKind::Invalid, format!("cannot write {path:?}: it is a directory")));
                }
                _ => return Err(not_regular(path, "write")),
            }
        }
        Err(Errno::NOENT) => false,
        Err(e) => return Err(e).context("open", path),
    };
    let mut flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    // A mode without `CREATE` is an error to the kernel.
    let mut create_mode = 0;
    if !exists {
        flags |= OFlags::CREATE;
        create_mode = 0o600;
    }
    if mode == WriteMode::Append {
        flags |= OFlags::APPEND;
    }
    let opened = root.open_at(path, flags, create_mode).context("open", path)?;
    let stat = rustix::fs::fstat(&opened).context("stat", path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_regular(path, "write"));
    }
    if exists {
        own(&opened, ownership.uid, ownership.gid, ownership.mode, path)?;
    } else {
        own(
            &opened,
            Some(ownership.uid.unwrap_or(0)),
            Some(ownership.gid.unwrap_or(0)),
            Some(ownership.mode.unwrap_or(FILE_MODE)),
            path,
        )?;
    }
    if mode == WriteMode::Overwrite {
        rustix::fs::ftruncate(&opened, 0).context("truncate", path)?;
    }
    Ok(File::from(opened))
}

/// A directory that exists, also one behind a link, stays as it is.
fn make_directory(root: &Root, path: &str, ownership: Ownership) -> Result<(), GuestError> {
    check_mode(ownership)?;
    let Some((parent, name)) = root.parent(path)? else { return Ok(()) };
    match rustix::fs::mkdirat(&parent, &*name, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        Err(Errno::EXIST) if root.open_at(path, OFlags::PATH | OFlags::DIRECTORY, 0).is_ok() => return Ok(()),
        Err(e) => return Err(e).context("make the directory", path),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&parent, &*name, flags, Mode::empty()).context("open", path)?;
    own(
        &made,
        Some(ownership.uid.unwrap_or(0)),
        Some(ownership.gid.unwrap_or(0)),
        Some(ownership.mode.unwrap_or(DIRECTORY_MODE)),
        path,
    )
}

fn symlink(root: &Root, path: &str, target: &str, ownership: Ownership) -> Result<(), GuestError> {
    let Some((parent, name)) = root.parent(path)? else {
        return Err(failure(ErrorKind::Conflict, "cannot make a link in the place of the root directory"));
    };
    match rustix::fs::symlinkat(target, &parent, &*name) {
        Ok(()) => {}
        Err(Errno::EXIST) => replace_link(&parent, &name, target, path)?,
        Err(e) => return Err(e).context("make the link", path),
    }
    let (uid, gid) = (Uid::from_raw(ownership.uid.unwrap_or(0)), Gid::from_raw(ownership.gid.unwrap_or(0)));
    rustix::fs::chownat(&parent, &*name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).context("chown", path)
}

/// Puts a new link over an old one at once, so that no one finds the name missing.
fn replace_link(parent: impl AsFd, name: &[u8], target: &str, path: &str) -> Result<(), GuestError> {
    let parent = parent.as_fd();
    let old = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).context("stat", path)?;
    if FileType::from_raw_mode(old.st_mode) != FileType::Symlink {
        let text = format!("cannot make the link {path:?}: a file or directory of that name exists; delete it first");
        return Err(failure(ErrorKind::Conflict, text));
    }
    let temporary = tree::make_unique(|temporary| rustix::fs::symlinkat(target, parent, temporary))
        .context("make the link", path)?;
    rustix::fs::renameat(parent, &*temporary, parent, name).map_err(|e| {
        // The rename's own error is what matters; a link left behind harms nothing.
        let _ = rustix::fs::unlinkat(parent, &*temporary, AtFlags::empty());
        error::errno(e, "make the link", path)
    })
}

/// Sets owner and mode; the mode last, because a change of owner clears the set-id bits.
fn own(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>, mode: Option<u32>, path: &str) -> Result<(), GuestError> {
    if uid.is_some() || gid.is_some() {
        rustix::fs::fchown(&fd, uid.map(Uid::from_raw), gid.map(Gid::from_raw)).context("chown", path)?;
    }
    match mode {
        Some(mode) => rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode)).context("chmod", path),
        None => Ok(()),
    }
}

fn check_mode(ownership: Ownership) -> Result<(), GuestError> {
    if ownership.uid == Some(u32::MAX) || ownership.gid == Some(u32::MAX) {
        return Err(failure(ErrorKind::Invalid, "4294967295 is no user or group id"));
    }
    match ownership.mode {
        Some(mode) if mode > 0o7777 => {
            Err(failure(ErrorKind::Invalid, format!("mode {mode:o} is no set of permission bits (at most 7777)")))
        }
        _ => Ok(()),
    }
}

fn describe(stat: &Stat) -> FileStat {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        _ => FileKind::Other,
    };
    FileStat {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
    }
}

fn not_regular(path: &str, what: &str) -> GuestError {
    let text = format!("cannot {what} {path:?}: it is a FIFO, a socket or a device; use a program in the guest for it");
    failure(ErrorKind::NotSupported, text)
}

#[cfg(test)]
mod tests;
