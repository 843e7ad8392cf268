//! Making tar archives of directories: the other direction of [`crate::unpack`].
//!
//! Runs confined, on files that a guest left behind: no link is followed, and what cannot be in an archive (a socket) is
//! left out.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::wire;

mod compress;

pub use compress::{Compression, Compressor};

/// Directories that are open at a time, and so how deep a tree may be.
const DEPTH: usize = 400;
/// Bytes of content between two reports.
const REPORT: u64 = 64 << 20;
/// Longest list of names and longest value of extended attributes (`XATTR_LIST_MAX` and `XATTR_SIZE_MAX`).
const XATTR_MAX: usize = 64 << 10;

/// An archive that is being made.
pub struct Archive<W: Write> {
    tar: Builder<W>,
    /// Device and inode of files with several names, and the name they are under in the archive.
    linked: HashMap<(u64, u64), PathBuf>,
    bytes: u64,
}

impl<W: Write> Archive<W> {
    /// One that is written to `out`.
    pub fn new(out: W) -> Self {
        Self { tar: Builder::new(out), linked: HashMap::new(), bytes: 0 }
    }

    /// Adds a file of ours.
    pub fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, name, content)
    }

    /// Adds a directory of ours that only root may enter.
    pub fn add_directory(&mut self, name: &str) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o100);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        self.tar.append_data(&mut header, name, io::empty())
    }

    /// Adds `name` of `parent`, a directory with everything below it, under `place`. One that is not there is passed over.
    pub fn add_tree(&mut self, parent: BorrowedFd<'_>, name: &CStr, place: &Path) -> io::Result<()> {
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(stat) => self.entry(parent, name, &stat, place, DEPTH),
        }
    }

    /// Ends the archive.
    pub fn finish(self) -> io::Result<W> {
        self.tar.into_inner()
    }

    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        place: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let mut header = header(stat);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_nlink > 1 && !kind.is_dir() {
            if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
                header.set_entry_type(EntryType::Link);
                return self.tar.append_link(&mut header, place, first);
            }
            self.linked.insert((stat.st_dev, stat.st_ino), place.to_owned());
        }
        match kind {
            FileType::Directory => self.directory(parent, name, header, place, depth),
            FileType::RegularFile => self.file(parent, name, header, place),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
                self.attributes(&unopened(parent, name)?)?;
                header.set_entry_type(EntryType::Symlink);
                self.tar.append_link(&mut header, place, OsStr::from_bytes(target.as_bytes()))
            }
            FileType::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.tar.append_data(&mut header, place, io::empty())
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                let block = kind == FileType::BlockDevice;
                header.set_entry_type(if block { EntryType::Block } else { EntryType::Char });
                header.set_device_major(rustix::fs::major(stat.st_rdev))?;
                header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
                self.tar.append_data(&mut header, place, io::empty())
            }
            _ => Ok(()),
        }
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        mut header: Header,
        place: &Path,
        depth: usize,
    ) -> io::Result<()> {
        if depth == 0 {
            return Err(io::Error::other(format!("directories are nested deeper than {DEPTH} at {}", place.display())));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        self.attributes(&opened(&directory)?)?;
        header.set_entry_type(EntryType::Directory);
        self.tar.append_data(&mut header, place, io::empty())?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let name = entry?.file_name().to_owned();
            if ![c".", c".."].contains(&name.as_c_str()) {
                names.push(name);
            }
        }
        // The same tree gives the same archive.
        names.sort_unstable();
        for name in names {
            let stat = rustix::fs::statat(&directory, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
            let place = place.join(OsStr::from_bytes(name.to_bytes()));
            self.entry(directory.as_fd(), &name, &stat, &place, depth - 1)?;
        }
        Ok(())
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &CStr, mut header: Header, place: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let size = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        self.attributes(&opened(&file)?)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        self.tar.append_data(&mut header, place, File::from(file).take(size))?;
        let before = self.bytes / REPORT;
        self.bytes += size;
        if self.bytes / REPORT != before {
            wire::progress("pack", None, format!("{} MiB", self.bytes >> 20));
        }
        Ok(())
    }

    /// Extended attributes of the entry that follows.
    fn attributes(&mut self, attributes: &[(String, Vec<u8>)]) -> io::Result<()> {
        if attributes.is_empty() {
            return Ok(());
        }
        self.tar.append_pax_extensions(attributes.iter().map(|(name, value)| (name.as_str(), value.as_slice())))
    }
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header.set_size(0);
    header
}

fn opened(file: &OwnedFd) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut list = vec![0; XATTR_MAX];
    let length = supported(rustix::fs::flistxattr(file, list.as_mut_slice()))?;
    collect(&list[..length], |name, value| rustix::fs::fgetxattr(file, name, value))
}

/// A link can be named only.
fn unopened(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let path = CString::new(path).map_err(io::Error::other)?;
    let mut list = vec![0; XATTR_MAX];
    // Without /proc there are none to be seen; links have none that an image keeps.
    let length = match rustix::fs::llistxattr(&*path, list.as_mut_slice()) {
        Err(Errno::NOENT | Errno::NOTDIR) => 0,
        length => supported(length)?,
    };
    collect(&list[..length], |name, value| rustix::fs::lgetxattr(&*path, name, value))
}

fn collect(list: &[u8], get: impl Fn(&CStr, &mut [u8]) -> Result<usize, Errno>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut attributes = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // `trusted.*` and labels belong to this host.
        let Some(text) = std::str::from_utf8(name).ok().filter(|name| crate::unpack::tree::wanted(name.as_bytes()))
        else {
            continue;
        };
        let name = CString::new(text).map_err(io::Error::other)?;
        let mut value = vec![0; XATTR_MAX];
        let length = match get(&name, &mut value) {
            Err(Errno::NODATA) => continue,
            length => length?,
        };
        value.truncate(length);
        attributes.push((format!("SCHILY.xattr.{text}"), value));
    }
    Ok(attributes)
}

fn supported(length: Result<usize, Errno>) -> io::Result<usize> {
    match length {
        Err(Errno::OPNOTSUPP) => Ok(0),
        length => Ok(length?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    use super::*;
    use crate::unpack::budget::Budget;
    use crate::unpack::tarball::{self, Choice};
    use crate::unpack::tree::{Tree, open_directory};

    const COMPRESSIONS: [Compression; 6] = [
        Compression::None,
        Compression::Gzip,
        Compression::Zstd,
        Compression::Xz,
        Compression::Lzma,
        Compression::Bzip2,
    ];

    fn packed(source: &Path, compression: Compression) -> PathBuf {
        let path = source.join("../packed");
        let out = Compressor::new(File::create(&path).unwrap(), compression).unwrap();
        let mut archive = Archive::new(out);
        archive.add("metadata.yaml", b"architecture: x86_64\n").unwrap();
        let parent = open_directory(source.to_str().unwrap()).unwrap();
        archive.add_tree(parent.as_fd(), c"rootfs", Path::new("rootfs")).unwrap();
        archive.add_tree(parent.as_fd(), c"templates", Path::new("templates")).unwrap();
        archive.finish().unwrap().finish().unwrap();
        path
    }

    #[test]
    fn what_is_packed_is_unpacked_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (source, dest) = (dir.path().join("source"), dir.path().join("dest"));
        let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
        let file = source.join("rootfs").join(&long);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::create_dir(&dest).unwrap();
        std::fs::write(&file, "content").unwrap();
        chown(&file, Some(33), Some(34)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4750)).unwrap();
        rustix::fs::setxattr(&file, "user.note", b"a\nb", rustix::fs::XattrFlags::empty()).unwrap();
        std::fs::hard_link(&file, source.join("rootfs/zz")).unwrap();
        symlink("t".repeat(300), source.join("rootfs/link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, source.join("rootfs/fifo"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(source.join("rootfs/socket")).unwrap();

        for compression in COMPRESSIONS {
            let archive = crate::unpack::archive::open(File::open(packed(&source, compression)).unwrap()).unwrap();
            let mut tree = Tree::new(open_directory(dest.to_str().unwrap()).unwrap());
            let mut budget = Budget::new(1 << 30, 1000);
            tarball::unpack(archive, &mut tree, &mut budget, &mut |_| Choice::Take).unwrap();
            let copy = dest.join("rootfs").join(&long);
            let stat = std::fs::metadata(&copy).unwrap();
            assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777, stat.nlink()), (33, 34, 0o4750, 2));
            assert_eq!(std::fs::read(dest.join("rootfs/zz")).unwrap(), b"content");
            let mut value = [0; 8];
            let length = rustix::fs::getxattr(&copy, "user.note", &mut value).unwrap();
            assert_eq!(&value[..length], b"a\nb");
            assert_eq!(std::fs::read_link(dest.join("rootfs/link")).unwrap(), Path::new(&"t".repeat(300)));
            assert!(dest.join("rootfs/fifo").exists() && !dest.join("rootfs/socket").exists());
            assert!(dest.join("metadata.yaml").exists() && !dest.join("templates").exists());
            std::fs::remove_dir_all(dest.join("rootfs")).unwrap();
        }
    }
}
