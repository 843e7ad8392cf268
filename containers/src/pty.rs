//! Pseudo terminals of a container's devpts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_guest::protocol::WindowSize;
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};

/// Number of the devpts file system (`DEVPTS_SUPER_MAGIC`).
const DEVPTS: i64 = 0x1cd1;

/// Opens a new terminal through the multiplexer at `path` below `dir` and tells its number. Refuses anything but
/// that of a devpts, for the container may have put something else there. Needs no procfs.
pub(crate) fn open_master(dir: impl AsFd, path: &str) -> io::Result<(OwnedFd, u32)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let master = rustix::fs::openat(dir, path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&master)?;
    let is_device = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
    if !is_device || stat.st_rdev != rustix::fs::makedev(5, 2) || rustix::fs::fstatfs(&master)?.f_type as i64 != DEVPTS
    {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not that of a devpts"));
    }
    rustix::io::ioctl_fionbio(&master, false)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let number = name.to_str().ok().and_then(|name| name.rsplit('/').next()?.parse().ok());
    Ok((master, number.ok_or(io::ErrorKind::InvalidData)?))
}

/// The other end of `master`, found without a path.
pub(crate) fn open_slave(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    Ok(rustix::pty::ioctl_tiocgptpeer(master, flags)?)
}

/// Sets a terminal's size; 0×0 leaves it.
pub(crate) fn resize(master: impl AsFd, size: WindowSize) -> io::Result<()> {
    if size.width == 0 && size.height == 0 {
        return Ok(());
    }
    let size = Winsize { ws_col: size.width, ws_row: size.height, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(master, size)?)
}
