//! The mounts of the guest, and the moment at which its real root takes over.

use std::{fs::File, io, io::Read, os::fd::OwnedFd};

use rustix::{
    event::{PollFd, PollFlags},
    fs::{CWD, Mode, OFlags},
    io::Errno,
    thread::LinkNameSpaceType,
};

/// Tells when mounts of process 1 changed.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// Starts to watch; changes from now on are seen.
    pub fn new(proc: &OwnedFd) -> io::Result<Self> {
        Ok(Self(open(proc, "1/mountinfo")?))
    }

    /// Waits for a change since the last call.
    pub fn wait(&self) -> io::Result<()> {
        loop {
            let mut fds = [PollFd::new(&self.0, PollFlags::PRI)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Does `attempt`; as long as it fails because a file system is read-only, again after each change.
    pub fn until_writable<T>(&self, attempt: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match attempt() {
                Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => self.wait()?,
                result => return result,
            }
        }
    }
}

fn open(proc: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(proc, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A file of the agent's own proc.
pub fn read(proc: &OwnedFd, path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::from(open(proc, path)?).read_to_string(&mut text)?;
    Ok(text)
}

/// Waits until the image's initrd has put the real root in the place of its own, and makes it the root of this
/// process too, which must have a single thread.
pub fn enter_real_root(proc: &OwnedFd) -> io::Result<()> {
    let initial = rustix::fs::statat(CWD, "/", rustix::fs::AtFlags::empty())?.st_dev;
    let watch = Watch::new(proc)?;
    loop {
        // The real root is mounted over the initrd's. To enter the name space again leads to what lies on top, and
        // does not need process 1 to have changed its own root yet, of which nothing would tell.
        let mounts = open(proc, "1/ns/mnt")?;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&mounts), Some(LinkNameSpaceType::Mount))?;
        if rustix::fs::statat(CWD, "/", rustix::fs::AtFlags::empty())?.st_dev != initial {
            return Ok(());
        }
        watch.wait()?;
    }
}
