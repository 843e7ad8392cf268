//! Locks on disk images, so that no two programs change one, as QEMU takes them: `qemu-img` and QEMU refuse an image
//! that is in use here, and the other way round.
//!
//! QEMU's scheme (`block/file-posix.c`): for each permission an opener uses it holds a shared lock on byte 100 + the
//! permission's number, for each it does not share with others one on byte 200 + the number; whoever finds a foreign
//! lock on the opposite byte gives way. The locks belong to the open file description and end with it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use tracing::warn;

const USED: libc::off_t = 100;
const UNSHARED: libc::off_t = 200;
const CONSISTENT_READ: libc::off_t = 0;
const WRITE: libc::off_t = 1;
const RESIZE: libc::off_t = 3;

/// Locks `file` for one user who may write it, or for any number who only read it. A file system without locks gives
/// none, and a warning.
pub fn lock(file: &File, readonly: bool) -> io::Result<()> {
    match lock_bytes(file, readonly) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP)) => {
            warn!(%error, "the disk's image cannot be locked; start no other program that writes it");
            Ok(())
        }
        other => other,
    }
}

fn lock_bytes(file: &File, readonly: bool) -> io::Result<()> {
    let used: &[libc::off_t] = if readonly { &[CONSISTENT_READ] } else { &[CONSISTENT_READ, WRITE, RESIZE] };
    let unshared = [WRITE, RESIZE];
    // Own locks first: of two that begin at once at least one sees the other's.
    for byte in used.iter().map(|bit| USED + bit).chain(unshared.map(|bit| UNSHARED + bit)) {
        control(file, libc::F_OFD_SETLK, libc::F_RDLCK, byte)?;
    }
    for byte in used.iter().map(|bit| UNSHARED + bit).chain(unshared.map(|bit| USED + bit)) {
        if control(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte)? != libc::F_UNLCK {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another program (a virtual machine, or qemu-img) has the disk's image open; end it first",
            ));
        }
    }
    Ok(())
}

/// One lock call on one byte; returns the kind of lock found.
fn control(file: &File, command: libc::c_int, kind: libc::c_int, byte: libc::off_t) -> io::Result<libc::c_int> {
    // SAFETY: `flock` is plain data, for which zeroes are valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    (lock.l_start, lock.l_len) = (byte, 1);
    // SAFETY: the descriptor is open and `lock` lives through the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(lock.l_type.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn one_writer_or_many_readers() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let writer = open(image.path());
        lock(&writer, false).unwrap();
        for readonly in [false, true] {
            let error = lock(&open(image.path()), readonly).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        }
        lock(&writer.try_clone().unwrap(), false).unwrap();
        drop(writer);
        let (one, two) = (open(image.path()), open(image.path()));
        lock(&one, true).unwrap();
        lock(&two, true).unwrap();
        assert!(lock(&open(image.path()), false).is_err());
        drop((one, two));
        lock(&open(image.path()), false).unwrap();
    }
}
