//! What an unpacked image must look like before anybody else opens files in it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::wire::{Failure, JobResult};

/// Largest `metadata.yaml`.
pub const METADATA_MAX: u64 = 1 << 20;
/// Largest template.
pub const TEMPLATE_MAX: u64 = 1 << 20;

/// Opens `path` below `directory`; no part of it may be a symbolic link.
pub fn open_plain(directory: impl AsFd, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // Without blocking: a named pipe in place of the file must not hold us up.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve)?)
}

/// Reads regular file `path` below `directory`, at most `cap` bytes.
pub fn read_plain(directory: impl AsFd, path: &str, cap: u64) -> io::Result<Vec<u8>> {
    let file = open_plain(directory, path, OFlags::RDONLY)?;
    let info = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(info.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let mut content = Vec::new();
    File::from(file).take(cap + 1).read_to_end(&mut content)?;
    if content.len() as u64 > cap {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {cap} bytes")));
    }
    Ok(content)
}

/// Checks the three names of an unpacked image; `rootfs` only if it should be there.
pub fn image(directory: impl AsFd, rootfs: bool) -> JobResult<()> {
    let directory = directory.as_fd();
    read_plain(directory, "metadata.yaml", METADATA_MAX).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Failure::invalid("the image has no metadata.yaml; it is no LXD image"),
        _ => Failure::invalid(format!("metadata.yaml of the image cannot be used: {e}")),
    })?;
    if rootfs {
        let info = rustix::fs::statat(directory, "rootfs", AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|_| Failure::invalid("the image has no rootfs directory; it is no container image"))?;
        must_be_directory("rootfs", info.st_mode)?;
    }
    templates(directory)
}

/// Checks the place of the templates, if there is one.
pub fn templates(directory: impl AsFd) -> JobResult<()> {
    match rustix::fs::statat(directory, "templates", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(info) => must_be_directory("templates", info.st_mode),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Failure::from_io("look at the image's templates")(e.into())),
    }
}

fn must_be_directory(name: &str, mode: u32) -> JobResult<()> {
    match FileType::from_raw_mode(mode) {
        FileType::Directory => Ok(()),
        kind => Err(Failure::invalid(format!("\"{name}\" of the image is no directory but {kind:?}"))),
    }
}
