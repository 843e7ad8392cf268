//! Messages to the kernel's log, which the host sees on the console.

use std::{fmt::Display, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, makedev},
    io,
};

/// The kernel's log; silent if it cannot be opened.
#[derive(Debug)]
pub struct Log(Option<OwnedFd>);

impl Log {
    /// Opens the kernel's log by a device node made at `node`: there is no `/dev` yet.
    pub fn open(node: &Path) -> Self {
        let open = || -> io::Result<OwnedFd> {
            match rustix::fs::mknodat(CWD, node, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, makedev(1, 11)) {
                Ok(()) | Err(io::Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            rustix::fs::openat(CWD, node, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        };
        Self(open().ok())
    }

    /// The log behind an open descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self(Some(fd))
    }

    /// Another handle of the same log.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        Ok(Self(self.0.as_ref().map(OwnedFd::try_clone).transpose()?))
    }

    /// The descriptor.
    pub fn fd(&self) -> Option<&OwnedFd> {
        self.0.as_ref()
    }

    /// Writes one line, a warning.
    pub fn line(&self, text: impl Display) {
        self.write(format_args!("<4>berth-agent: {text}\n"));
    }

    /// Writes a line that tells the host how far the guest is; no warning.
    pub fn mark(&self, text: &str) {
        self.write(format_args!("<5>{text}\n"));
    }

    fn write(&self, line: std::fmt::Arguments<'_>) {
        if let Some(fd) = &self.0 {
            // Nobody is left to tell about an error here.
            let _ = rustix::io::write(fd, line.to_string().as_bytes());
        }
    }
}
