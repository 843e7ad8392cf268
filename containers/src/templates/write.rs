//! Files below the container's root.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::mounts::target;

/// Mode of a new file, as LXD has it.
const MODE: u32 = 0o644;

/// Links are followed as inside the container, so none leads out.
fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(MODE) } else { Mode::empty() };
    openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve)
}

/// Whether there is something at `path`, even a link that leads nowhere.
pub(super) fn exists(root: BorrowedFd<'_>, path: &str) -> io::Result<bool> {
    match open(root, path, OFlags::PATH | OFlags::NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Gives the file `path` this content. One that is there keeps owner and mode.
pub(super) fn write(root: BorrowedFd<'_>, path: &str, content: &[u8]) -> io::Result<()> {
    let parent = path.trim_end_matches('/').rsplit_once('/').map_or("", |(parent, _)| parent);
    target::directory(root, if parent.is_empty() { "." } else { parent })?;
    // A named pipe in its place must not hold us up.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open(root, path, flags)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is a {kind:?} in its place")));
    }
    let mut file = File::from(file);
    file.set_len(0)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn rooted() -> (tempfile::TempDir, std::path::PathBuf, File) {
        let outer = tempfile::tempdir().unwrap();
        std::fs::write(outer.path().join("secret"), "secret").unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let fd = File::open(&root).unwrap();
        (outer, root, fd)
    }

    #[test]
    fn what_is_there_keeps_owner_and_mode() {
        let (_outer, root, fd) = rooted();
        write(fd.as_fd(), "/etc/a/b", b"long content").unwrap();
        let made = root.join("etc/a/b").metadata().unwrap();
        assert_eq!(made.mode() & 0o7777 & !0o644, 0, "{:o}", made.mode());
        std::fs::set_permissions(root.join("etc/a/b"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        write(fd.as_fd(), "/etc/a/b", b"short").unwrap();
        assert_eq!(std::fs::read(root.join("etc/a/b")).unwrap(), b"short");
        assert_eq!(root.join("etc/a/b").metadata().unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn neither_links_nor_dots_lead_out() {
        let (outer, root, fd) = rooted();
        symlink("../secret", root.join("relative")).unwrap();
        symlink(outer.path().join("secret"), root.join("absolute")).unwrap();
        symlink("..", root.join("up")).unwrap();
        for path in ["/relative", "/up/secret", "/../secret", "/up/up/made", "/absolute"] {
            // It may be an error, as it would be inside.
            let _ = write(fd.as_fd(), path, b"x");
        }
        assert_eq!(std::fs::read(outer.path().join("secret")).unwrap(), b"secret");
        assert_eq!(std::fs::read(root.join("secret")).unwrap(), b"x");
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 2);
    }

    #[test]
    fn special_files_and_directories_are_refused() {
        let (_outer, root, fd) = rooted();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), FileType::Fifo, mode, 0).unwrap();
        std::fs::create_dir(root.join("directory")).unwrap();
        for path in ["/fifo", "/directory", "/", "/magic"] {
            symlink("/proc/self/root/etc/passwd", root.join("magic")).ok();
            assert!(write(fd.as_fd(), path, b"x").is_err(), "{path}");
        }
    }

    #[test]
    fn a_link_that_leads_nowhere_is_something() {
        let (_outer, root, fd) = rooted();
        symlink("gone", root.join("link")).unwrap();
        assert!(exists(fd.as_fd(), "/link").unwrap() && !exists(fd.as_fd(), "/gone").unwrap());
        assert!(!exists(fd.as_fd(), "/a/b").unwrap());
    }
}
