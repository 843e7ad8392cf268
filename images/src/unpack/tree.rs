//! Writing files below one directory and nowhere else.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// Owner, mode and the like of one entry.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// Time of last change, seconds since 1970.
    pub mtime: i64,
    /// Extended attributes.
    pub extended: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A directory that is being filled.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    // The directory used last: archives list files directory by directory.
    last: Option<(Vec<Vec<u8>>, OwnedFd)>,
    // Times of directories are set at the end, since filling them changes these.
    times: Vec<(Vec<Vec<u8>>, i64)>,
}

const BLOCK: usize = 64 << 10;

fn join(parts: &[impl AsRef<[u8]>]) -> OsString {
    let parts: Vec<&[u8]> = parts.iter().map(AsRef::as_ref).collect();
    OsString::from_vec(if parts.is_empty() { b".".to_vec() } else { parts.join(&b'/') })
}

fn name_of(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

impl Tree {
    /// Fills `root`.
    pub fn new(root: OwnedFd) -> Self {
        Self { root, last: None, times: Vec::new() }
    }

    fn resolve(&self, parts: &[impl AsRef<[u8]>]) -> Result<OwnedFd, Errno> {
        rustix::fs::openat2(
            &self.root,
            join(parts),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Makes sure directory `parts` is open as `self.last`, creating what is missing of it.
    fn enter(&mut self, parts: &[Vec<u8>]) -> io::Result<BorrowedFd<'_>> {
        if self.last.as_ref().is_none_or(|(open, _)| open != parts) {
            let directory = match self.resolve(parts) {
                Err(Errno::NOENT) => self.create_all(parts)?,
                other => other?,
            };
            self.last = Some((parts.to_vec(), directory));
        }
        match &self.last {
            Some((_, directory)) => Ok(directory.as_fd()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create_all(&self, parts: &[Vec<u8>]) -> io::Result<OwnedFd> {
        let mut directory = self.resolve(&parts[..0])?;
        for end in 1..=parts.len() {
            directory = match self.resolve(&parts[..end]) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&directory, name_of(&parts[end - 1]), Mode::from_raw_mode(0o755))?;
                    self.resolve(&parts[..end])?
                }
                other => other?,
            };
        }
        Ok(directory)
    }

    /// Removes what is in the way of a new entry; a directory stays.
    fn clear(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(directory, name_of(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// A directory; one that is there gets the attributes.
    pub fn directory(&mut self, parent: &[Vec<u8>], name: &[u8], attributes: &Attributes) -> io::Result<()> {
        let full: Vec<Vec<u8>> = parent.iter().cloned().chain([name.to_vec()]).collect();
        let directory = self.enter(parent)?;
        let open = |directory: BorrowedFd<'_>| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(directory, name_of(name), flags, Mode::empty())
        };
        let made = match rustix::fs::mkdirat(directory, name_of(name), Mode::from_raw_mode(0o700)) {
            Ok(()) => open(directory)?,
            Err(Errno::EXIST) => match open(directory) {
                Ok(there) => there,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    Self::clear(directory, name)?;
                    rustix::fs::mkdirat(directory, name_of(name), Mode::from_raw_mode(0o700))?;
                    open(directory)?
                }
                Err(e) => return Err(e.into()),
            },
            Err(e) => return Err(e.into()),
        };
        set_attributes(made.as_fd(), attributes)?;
        self.times.push((full, attributes.mtime));
        Ok(())
    }

    /// A regular file of `size` bytes from `content`; runs of zeros become holes. Gives the number of bytes that are none,
    /// which must not be more than `room`.
    pub fn file(
        &mut self,
        parent: &[Vec<u8>],
        name: &[u8],
        content: &mut dyn Read,
        size: u64,
        room: u64,
        attributes: &Attributes,
    ) -> io::Result<u64> {
        let directory = self.enter(parent)?;
        Self::clear(directory, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name_of(name), flags, Mode::from_raw_mode(0o600))?;
        let mut file = File::from(file);
        let written = copy_sparse(content, &mut file, size, room)?;
        set_attributes(file.as_fd(), attributes)?;
        rustix::fs::futimens(&file, &times(attributes.mtime))?;
        Ok(written)
    }

    /// A character device.
    pub fn device(&mut self, parent: &[Vec<u8>], name: &[u8], rdev: u64, attributes: &Attributes) -> io::Result<()> {
        let directory = self.enter(parent)?;
        Self::clear(directory, name)?;
        let mode = Mode::from_raw_mode(attributes.mode & 0o777);
        rustix::fs::mknodat(directory, name_of(name), FileType::CharacterDevice, mode, rdev)?;
        set_owner_at(directory, name, attributes)
    }

    /// A symbolic link. Its target is data: nothing here follows it out of the tree.
    pub fn symlink(&mut self, parent: &[Vec<u8>], name: &[u8], to: &[u8], attributes: &Attributes) -> io::Result<()> {
        let directory = self.enter(parent)?;
        Self::clear(directory, name)?;
        rustix::fs::symlinkat(OsStr::from_bytes(to), directory, name_of(name))?;
        set_owner_at(directory, name, attributes)
    }

    /// A named pipe.
    pub fn fifo(&mut self, parent: &[Vec<u8>], name: &[u8], attributes: &Attributes) -> io::Result<()> {
        let directory = self.enter(parent)?;
        Self::clear(directory, name)?;
        let mode = Mode::from_raw_mode(attributes.mode & 0o777);
        rustix::fs::mknodat(directory, name_of(name), FileType::Fifo, mode, 0)?;
        set_owner_at(directory, name, attributes)
    }

    /// A further name for a file unpacked before.
    pub fn hard_link(&mut self, parent: &[Vec<u8>], name: &[u8], to: &[&[u8]]) -> io::Result<()> {
        let Some((old_name, old_parent)) = to.split_last() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let old = self.resolve(old_parent)?;
        let directory = self.enter(parent)?;
        Self::clear(directory, name)?;
        Ok(rustix::fs::linkat(&old, name_of(old_name), directory, name_of(name), AtFlags::empty())?)
    }

    /// Sets what could not be set while the tree was filled.
    pub fn finish(&mut self) -> io::Result<()> {
        self.last = None;
        for (parts, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            let Some((name, parent)) = parts.split_last() else { continue };
            // What was a directory may have been replaced by a later entry.
            let Ok(directory) = self.resolve(parent) else { continue };
            match rustix::fs::utimensat(&directory, name_of(name), &times(mtime), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

fn set_owner_at(directory: BorrowedFd<'_>, name: &[u8], attributes: &Attributes) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    rustix::fs::chownat(directory, name_of(name), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::utimensat(directory, name_of(name), &times(attributes.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Order matters: a change of owner clears set-id bits and file capabilities, a change of mode alters ACLs.
fn set_attributes(file: BorrowedFd<'_>, attributes: &Attributes) -> io::Result<()> {
    rustix::fs::fchown(file, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(attributes.mode))?;
    for (name, value) in attributes.extended.iter().filter(|(name, _)| wanted(name)) {
        match rustix::fs::fsetxattr(file, name_of(name), value, XattrFlags::empty()) {
            // A filesystem without ACLs or labels is no reason to refuse the image.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(e) => return Err(io::Error::new(io::Error::from(e).kind(), format!("extended attribute: {e}"))),
        }
    }
    Ok(())
}

/// `trusted.*` belongs to the host, and labels of another machine's policy mean nothing here.
pub fn wanted(attribute: &[u8]) -> bool {
    attribute == b"security.capability"
        || attribute.starts_with(b"user.")
        || attribute == b"system.posix_acl_access"
        || attribute == b"system.posix_acl_default"
}

/// Gives the number of bytes that are no hole.
fn copy_sparse(content: &mut dyn Read, file: &mut File, size: u64, room: u64) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut left = size;
    let mut written = 0;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        content.read_exact(&mut block[..wanted])?;
        if wanted == BLOCK && block.iter().all(|&b| b == 0) {
            file.seek(SeekFrom::Current(BLOCK as i64))?;
        } else {
            written += wanted as u64;
            if written > room {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            file.write_all(&block[..wanted])?;
        }
        left -= wanted as u64;
    }
    file.set_len(size)?;
    Ok(written)
}

/// Opens directory `path` (trusted) to fill it.
pub fn open_directory(path: &str) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}
