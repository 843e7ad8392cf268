//! The root file system follows the disk that the host makes longer.
//!
//! Only where it fills the whole disk, as on the disks that Berth makes. Partitions are the guest's own matter, to which
//! cloud-init's growpart sees.

use std::{fs, io, os::fd::OwnedFd, path::PathBuf};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    ioctl::{Setter, ioctl, opcode},
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{KOBJECT_UEVENT, SocketAddrNetlink},
        recv, socket_with,
    },
};

use crate::{log::Log, mounts};

/// What the kernel itself says of devices (`UEVENT_KERNEL` of lib/kobject_uevent.c's users).
const KERNEL_GROUP: u32 = 1;
/// Longest message (`UEVENT_BUFFER_SIZE` of linux/kobject.h), with its header.
const MESSAGE_MAX: usize = 4096;
/// `EXT4_SUPER_MAGIC` of linux/magic.h.
const EXT4: u64 = 0xef53;
/// `EXT4_IOC_RESIZE_FS` of fs/ext4/ext4.h; the argument is a number of blocks.
const RESIZE_FS: rustix::ioctl::Opcode = opcode::write::<u64>(b'f', 16);
/// The kernel counts disks in these, whatever their blocks are.
const SECTOR: u64 = 512;

/// For the life of the guest; tells the log what fails.
pub fn follow(proc: &OwnedFd, log: &Log) {
    let changes = match changes() {
        Ok(changes) => changes,
        Err(e) => return log.line(format_args!("cannot hear of disks that grow: {e}")),
    };
    loop {
        if let Err(e) = mounts::Watch::new(proc).and_then(|watch| watch.until_writable(grow)) {
            log.line(format_args!("the root file system is not as long as its disk: {e}"));
        }
        if let Err(e) = wait(&changes) {
            return log.line(format_args!("cannot hear of disks that grow any more: {e}"));
        }
    }
}

/// What happens to devices from now on.
fn changes() -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))?;
    bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

/// Waits for a change of a disk.
fn wait(changes: &OwnedFd) -> io::Result<()> {
    let mut buffer = [0; MESSAGE_MAX];
    loop {
        match recv(changes, &mut buffer, RecvFlags::empty()) {
            Ok((length, _)) if is_change_of_disk(&buffer[..length]) => return Ok(()),
            // Some were lost, perhaps this one.
            Err(Errno::NOBUFS) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// A message is a list of texts that end with a zero.
fn is_change_of_disk(message: &[u8]) -> bool {
    let says = |text: &[u8]| message.split(|byte| *byte == 0).any(|part| part == text);
    says(b"ACTION=change") && says(b"SUBSYSTEM=block")
}

/// A root that is read-only so far grows once it is not.
fn grow() -> io::Result<()> {
    let root = rustix::fs::openat(CWD, "/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let info = rustix::fs::fstatfs(&root)?;
    if info.f_type as u64 != EXT4 {
        return Ok(());
    }
    let device = rustix::fs::fstat(&root)?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let disk = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    if disk.join("partition").exists() {
        return Ok(());
    }
    let size = fs::read_to_string(disk.join("size"))?;
    let sectors: u64 = size.trim().parse().map_err(|_| io::Error::other(format!("its size is \"{}\"", size.trim())))?;
    let blocks = sectors.saturating_mul(SECTOR) / info.f_bsize as u64;
    // SAFETY: the request reads a number of 64 bits. One that is the present one changes nothing.
    unsafe { ioctl(&root, Setter::<RESIZE_FS, u64>::new(blocks)) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_of_disks_count() {
        let message =
            |action, subsystem| format!("change@/devices/x\0ACTION={action}\0SUBSYSTEM={subsystem}\0RESIZE=1\0");
        assert!(is_change_of_disk(message("change", "block").as_bytes()));
        assert!(!is_change_of_disk(message("add", "block").as_bytes()));
        assert!(!is_change_of_disk(message("change", "net").as_bytes()));
        assert!(!is_change_of_disk(b""));
    }

    #[test]
    fn the_request_has_the_number_of_the_kernel() {
        assert_eq!(RESIZE_FS, 0x4008_6610);
    }
}
