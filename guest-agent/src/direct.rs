//! Boots the root disk without an initrd of the image.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::Path,
    process::Command,
};

use rustix::mount::MountFlags;

use crate::{init, log::Log, mounts};

/// Where the root is mounted before it becomes the root.
const NEW_ROOT: &str = "/sysroot";
/// Tried in this order if the kernel's arguments name none.
const FILE_SYSTEMS: &[&str] = &["ext4", "xfs", "btrfs", "erofs", "squashfs"];
/// Where the kernel itself looks for an init.
const INITS: &[&str] = &["/sbin/init", "/etc/init", "/bin/init"];

/// What the kernel's arguments say of the root.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    root: Option<String>,
    file_system: Option<String>,
    writable: bool,
    init: Option<String>,
}

impl Arguments {
    fn parse(line: &str) -> Self {
        let mut arguments = Self { writable: true, ..Self::default() };
        for word in line.split_whitespace() {
            match word.split_once('=').unwrap_or((word, "")) {
                ("root", value) => arguments.root = Some(value.to_owned()),
                ("rootfstype", value) => arguments.file_system = Some(value.to_owned()),
                ("init", value) => arguments.init = Some(value.to_owned()),
                ("ro", "") => arguments.writable = false,
                ("rw", "") => arguments.writable = true,
                _ => {}
            }
        }
        arguments
    }
}

/// Mounts the root disk, makes it the root and becomes its init, or serves as init if it has none. Returns only if that
/// fails.
pub fn boot(proc: &OwnedFd, log: &Log) -> io::Error {
    match mounts::read(proc, "cmdline").and_then(|line| try_boot(&Arguments::parse(&line), log)) {
        Ok(error) | Err(error) => error,
    }
}

fn try_boot(arguments: &Arguments, log: &Log) -> io::Result<io::Error> {
    for directory in ["/dev", NEW_ROOT] {
        fs::create_dir_all(directory)?;
    }
    rustix::mount::mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, None)?;
    mount_root(arguments)?;
    let dev = Path::new(NEW_ROOT).join("dev");
    let moved = fs::create_dir_all(&dev).and_then(|()| Ok(rustix::mount::mount_move("/dev", &dev)?));
    if let Err(e) = moved {
        log.line(format_args!("cannot give the root its /dev: {e}"));
    }
    std::env::set_current_dir(NEW_ROOT)?;
    rustix::mount::mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    for init in arguments.init.iter().map(String::as_str).chain(INITS.iter().copied()) {
        let error = Command::new(init).args(std::env::args_os().skip(1)).exec();
        if error.kind() != io::ErrorKind::NotFound {
            return Ok(io::Error::new(error.kind(), format!("{init} of the root does not run: {error}")));
        }
    }
    init::run(log)
}

fn mount_root(arguments: &Arguments) -> io::Result<()> {
    let root = arguments.root.as_deref().filter(|root| root.starts_with("/dev/")).ok_or_else(|| {
        let text = "the kernel's arguments must name a device as in root=/dev/vda, because there is no initrd";
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    let flags = if arguments.writable { MountFlags::empty() } else { MountFlags::RDONLY };
    let named = arguments.file_system.as_deref().map(|name| name.split(',').collect::<Vec<_>>());
    let mut error = io::Error::from(io::ErrorKind::NotFound);
    for file_system in named.as_deref().unwrap_or(FILE_SYSTEMS) {
        match rustix::mount::mount(root, NEW_ROOT, *file_system, flags, None) {
            Ok(()) => return Ok(()),
            Err(e) => error = io::Error::new(e.kind(), format!("{root} as {file_system}: {}", io::Error::from(e))),
        }
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_argument_counts() {
        let arguments = Arguments::parse("console=ttyS0 root=/dev/vda ro quiet rw rootfstype=ext4,xfs init=/x");
        let expected = Arguments {
            root: Some("/dev/vda".into()),
            file_system: Some("ext4,xfs".into()),
            writable: true,
            init: Some("/x".into()),
        };
        assert_eq!(arguments, expected);
        assert!(!Arguments::parse("ro").writable);
    }
}
