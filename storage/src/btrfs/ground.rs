//! What a pool stands on: a file that a loop device makes a disk of, a block device, or a directory of a btrfs that
//! somebody else mounted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount, mount_remount, unmount};
use uuid::Uuid;

use super::options::Options;
use super::sys;
use crate::loop_device::LoopDevice;

/// Where the superblock begins, the UUID in it, and the word that says that it is one (`fs/btrfs/fs.h`).
const SUPERBLOCK: u64 = 64 << 10;
const SUPERBLOCK_UUID: usize = 0x20;
const SUPERBLOCK_MAGIC: usize = 0x40;
const MAGIC: &[u8; 8] = b"_BHRfS_M";

/// See the module's text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// A file of the pool's own.
    File(PathBuf),
    /// A block device; the path is where it was when the pool was made.
    Device(PathBuf),
    /// A directory or subvolume.
    Directory,
}

impl Ground {
    /// Makes the file system with the given UUID.
    pub(crate) fn format(&self, id: Uuid, label: &str, size: Option<u64>) -> io::Result<()> {
        let device = match self {
            Ground::File(file) => {
                make_file(file, size.unwrap_or(0))?;
                file
            }
            Ground::Device(device) => device,
            Ground::Directory => return Ok(()),
        };
        let mut program = Command::new("mkfs.btrfs");
        program.args(["--quiet", "--uuid", &id.to_string(), "--label", label, "--"]).arg(device);
        let output = program.output().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other("mkfs.btrfs is missing: install btrfs-progs"),
            _ => error,
        })?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let told: Vec<_> = text.lines().filter(|line| line.starts_with("ERROR")).collect();
        let told = if told.is_empty() { text.trim().to_owned() } else { told.join("; ") };
        let hint = if told.contains("existing filesystem") || told.contains("use the -f option") {
            format!(" (`wipefs --all {}` removes what is on it)", device.display())
        } else {
            String::new()
        };
        Err(io::Error::other(format!("mkfs.btrfs ended with {}: {told}{hint}", output.status)))
    }

    /// Mounts the file system with this UUID at `root`, unless it is there already.
    pub(crate) fn mount(&self, id: Uuid, root: &Path, options: &Options) -> io::Result<()> {
        if self.is_mounted(id, root)? {
            return Ok(());
        }
        // Kept until the mount holds it.
        let (device, _held) = match self {
            Ground::File(file) => {
                let device = match LoopDevice::find(file)? {
                    Some(device) => device,
                    None => LoopDevice::attach(file)?,
                };
                (device.path().to_owned(), Some(device))
            }
            Ground::Device(device) => (present_path(device, id)?, None),
            Ground::Directory => return Ok(()),
        };
        mount(&device, root, c"btrfs", options.flags, &*options.data).map_err(|error| match error {
            Errno::INVAL => {
                io::Error::other("it cannot be mounted: check btrfs.mount_options; the kernel log tells more")
            }
            Errno::NODEV => io::Error::other("this kernel has no btrfs"),
            _ => error.into(),
        })
    }

    /// Gives what is mounted at `root` other options.
    pub(crate) fn remount(&self, root: &Path, options: &Options) -> io::Result<()> {
        if *self == Ground::Directory { Ok(()) } else { Ok(mount_remount(root, options.flags, &*options.data)?) }
    }

    /// Whether the file system with this UUID is mounted at `root`.
    pub(crate) fn is_mounted(&self, id: Uuid, root: &Path) -> io::Result<bool> {
        if *self == Ground::Directory {
            return Ok(false);
        }
        // Nothing is opened: a process that somebody starts now has copies of our descriptors until it executes its
        // program, and the mount could not be ended meanwhile.
        let found = match statx(CWD, root, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
            Err(Errno::NOENT) => return Ok(false),
            found => found?,
        };
        let mounted = found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        Ok(mounted && sys::is_btrfs_at(root)? && Path::new("/sys/fs/btrfs").join(id.to_string()).exists())
    }

    /// Ends the mount, if there is one, and removes the file system.
    pub(crate) fn remove(&self, id: Uuid, root: &Path) -> io::Result<()> {
        while self.is_mounted(id, root)? {
            unmount(root, UnmountFlags::NOFOLLOW)?;
        }
        match self {
            Ground::File(file) => match std::fs::remove_file(file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            },
            Ground::Device(device) => wipe(device, id),
            Ground::Directory => Ok(()),
        }
    }

    /// Lets the file system grow to `size` bytes.
    pub(crate) fn grow(&self, root: &Path, size: u64) -> io::Result<()> {
        let Ground::File(file) = self else { return Ok(()) };
        let backing = OpenOptions::new().write(true).open(file)?;
        if size > backing.metadata()?.len() {
            backing.set_len(size)?;
            backing.sync_all()?;
        }
        let device = LoopDevice::find(file)?.ok_or_else(|| io::Error::other("it has no loop device"))?;
        device.grow()?;
        sys::grow(File::open(root)?.as_fd())
    }
}

fn make_file(file: &Path, size: u64) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        std::fs::DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    made.set_len(size)
}

/// The UUID of the btrfs on a device.
fn identity(device: &File) -> io::Result<Option<Uuid>> {
    let mut block = [0; SUPERBLOCK_MAGIC + 8];
    match device.read_exact_at(&mut block, SUPERBLOCK) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (head, magic) = block.split_at(SUPERBLOCK_MAGIC);
    let found = Uuid::from_slice(&head[SUPERBLOCK_UUID..SUPERBLOCK_UUID + 16]).map_err(io::Error::other)?;
    Ok((magic == MAGIC).then_some(found))
}

/// Where the device with this file system is: devices may have other names after the host was started again.
fn present_path(device: &Path, id: Uuid) -> io::Result<PathBuf> {
    let by_uuid = PathBuf::from(format!("/dev/disk/by-uuid/{id}"));
    for path in [device, &by_uuid] {
        if File::open(path).and_then(|file| identity(&file)).is_ok_and(|found| found == Some(id)) {
            return Ok(path.to_owned());
        }
    }
    let text = format!("no block device has the file system {id}: attach it");
    Err(io::Error::new(io::ErrorKind::NotFound, text))
}

/// Takes the file system away from a device, if it is that with this UUID: others are not the pool's.
fn wipe(device: &Path, id: Uuid) -> io::Result<()> {
    let Ok(device) = present_path(device, id) else { return Ok(()) };
    let mut device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(device)?;
    device.write_all_at(&[0; 8], SUPERBLOCK + SUPERBLOCK_MAGIC as u64)?;
    device.flush()?;
    device.sync_all()
}

/// Whether this is a block device.
pub(crate) fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: Uuid) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        file.as_file().write_all_at(id.as_bytes(), SUPERBLOCK + SUPERBLOCK_UUID as u64).unwrap();
        file.as_file().write_all_at(MAGIC, SUPERBLOCK + SUPERBLOCK_MAGIC as u64).unwrap();
        file
    }

    #[test]
    fn only_the_own_file_system_is_wiped() {
        let (own, other) = (Uuid::new_v4(), Uuid::new_v4());
        let file = device(other);
        assert!(present_path(file.path(), own).is_err());
        wipe(file.path(), own).unwrap();
        assert_eq!(identity(file.as_file()).unwrap(), Some(other));
        assert_eq!(present_path(file.path(), other).unwrap(), file.path());
        wipe(file.path(), other).unwrap();
        assert_eq!(identity(file.as_file()).unwrap(), None);
        assert_eq!(identity(tempfile::tempfile().as_ref().unwrap()).unwrap(), None, "too short for one");
    }
}
