//! Places in the container's root, found and made without leaving it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;

/// Deepest target; far above any path that makes sense.
const DEPTH_MAX: usize = 64;

/// Opens `path` below `root` (`O_PATH`). Links are followed as inside the container, so none leads out; magic links
/// are refused.
pub(crate) fn open(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Opens the directory `path` below `root` and makes what is missing of it.
pub(crate) fn directory(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    match open(root, path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let mut so_far = String::from(".");
    let mut at = open(root, &so_far)?;
    let parts: Vec<_> = parts(path).collect();
    if parts.len() > DEPTH_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too deep"));
    }
    for part in parts {
        match mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        so_far.push('/');
        so_far.push_str(part);
        at = open(root, &so_far)?;
    }
    Ok(at)
}

/// Opens the file `path` below `root` and makes it, with the directories to it, if it is missing.
pub(crate) fn file(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    match open(root, path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let path = path.trim_matches('/');
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let parent = directory(root, parent)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => open(root, path),
        Err(e) => Err(e.into()),
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_do_not_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        symlink(outside.path(), root.path().join("absolute")).unwrap();
        symlink("../../../../../..", root.path().join("up")).unwrap();
        symlink("gone", root.path().join("dangling")).unwrap();
        let fd = std::fs::File::open(root.path()).unwrap();
        assert!(file(&fd, "absolute/made").is_err(), "its target does not exist inside");
        directory(&fd, "up/made/there").unwrap();
        assert!(file(&fd, "dangling").is_err());
        file(&fd, "/a/b/file").unwrap();
        assert!(root.path().join("made/there").is_dir() && root.path().join("a/b/file").is_file());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
