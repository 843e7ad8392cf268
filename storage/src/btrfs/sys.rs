//! The requests of btrfs (`linux/btrfs.h`, `linux/btrfs_tree.h`) that the driver makes.
//!
//! Subvolumes are named by their ids and reached by file handles wherever something below a volume is meant: what an
//! instance made there has any depth and any name, and no path is resolved.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{self, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, Updater, ioctl, opcode};

/// Inode of the root of every subvolume (`BTRFS_FIRST_FREE_OBJECTID`).
pub(crate) const ROOT_INODE: u64 = 256;
/// `BTRFS_SUPER_MAGIC` of `linux/magic.h`.
const MAGIC: u64 = 0x9123_683e;
/// `BTRFS_IOCTL_MAGIC`.
const GROUP: u8 = 0x94;
/// `BTRFS_SUBVOL_RDONLY`.
const READ_ONLY: u64 = 1 << 1;
/// `BTRFS_SUBVOL_SPEC_BY_ID`.
const BY_ID: u64 = 1 << 4;
/// `BTRFS_ROOT_TREE_OBJECTID`.
const ROOT_TREE: u64 = 1;
/// `BTRFS_ROOT_REF_KEY`: an item that says which subvolume is in which.
const ROOT_REF: u32 = 156;
/// `BTRFS_QGROUP_LIMIT_MAX_RFER`.
const LIMIT_REFERENCED: u64 = 1;
/// `FILEID_BTRFS_WITHOUT_PARENT` of `linux/exportfs.h`.
const FILE_ID: i32 = 0x4d;

/// `btrfs_ioctl_vol_args_v2`; `rest` begins with an id if the flags say so, with a name otherwise.
#[repr(C)]
struct VolumeArgs {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    rest: [u8; 4040],
}

impl VolumeArgs {
    fn new(fd: i64, flags: u64, rest: &[u8]) -> io::Result<Self> {
        let mut args = Self { fd, transaction: 0, flags, unused: [0; 4], rest: [0; 4040] };
        // One byte stays zero, which ends a name.
        let place = args.rest[..4039].get_mut(..rest.len()).ok_or(Errno::NAMETOOLONG)?;
        place.copy_from_slice(rest);
        Ok(args)
    }
}

const SNAP_CREATE_V2: Opcode = opcode::write::<VolumeArgs>(GROUP, 23);
const SUBVOL_CREATE_V2: Opcode = opcode::write::<VolumeArgs>(GROUP, 24);
const SNAP_DESTROY_V2: Opcode = opcode::write::<VolumeArgs>(GROUP, 63);

/// Whether this is the root of a subvolume.
pub(crate) fn is_subvolume(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fs::fstat(fd)?.st_ino == ROOT_INODE && is_btrfs(fd)?)
}

/// Whether this is on a btrfs.
pub(crate) fn is_btrfs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fs::fstatfs(fd)?.f_type as u64 & 0xffff_ffff == MAGIC)
}

/// The same of a path.
pub(crate) fn is_btrfs_at(path: &std::path::Path) -> io::Result<bool> {
    Ok(fs::statfs(path)?.f_type as u64 & 0xffff_ffff == MAGIC)
}

/// Makes an empty subvolume.
pub(crate) fn create(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let args = VolumeArgs::new(0, 0, name.to_bytes())?;
    // SAFETY: the request reads a `btrfs_ioctl_vol_args_v2`.
    Ok(unsafe { ioctl(dir, Setter::<SUBVOL_CREATE_V2, _>::new(args)) }?)
}

/// Makes a writable snapshot of the subvolume whose root is open at `source`, without those in it.
pub(crate) fn snapshot(dir: BorrowedFd<'_>, name: &CStr, source: BorrowedFd<'_>) -> io::Result<()> {
    let args = VolumeArgs::new(source.as_raw_fd().into(), 0, name.to_bytes())?;
    // SAFETY: the request reads a `btrfs_ioctl_vol_args_v2`.
    Ok(unsafe { ioctl(dir, Setter::<SNAP_CREATE_V2, _>::new(args)) }?)
}

/// Removes a subvolume that holds no other one.
pub(crate) fn destroy(fs: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    let args = VolumeArgs::new(0, BY_ID, &id.to_ne_bytes())?;
    // SAFETY: the request reads a `btrfs_ioctl_vol_args_v2`.
    Ok(unsafe { ioctl(fs, Setter::<SNAP_DESTROY_V2, _>::new(args)) }?)
}

/// `btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct LookupArgs {
    tree: u64,
    inode: u64,
    path: [u8; 4080],
}

const INO_LOOKUP: Opcode = opcode::read_write::<LookupArgs>(GROUP, 18);

/// The id of the subvolume that this file is in.
pub(crate) fn subvolume_of(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut args = LookupArgs { tree: 0, inode: ROOT_INODE, path: [0; 4080] };
    // SAFETY: the request reads and writes a `btrfs_ioctl_ino_lookup_args`.
    unsafe { ioctl(fd, Updater::<INO_LOOKUP, _>::new(&mut args)) }?;
    Ok(args.tree)
}

const SUBVOL_GETFLAGS: Opcode = opcode::read::<u64>(GROUP, 25);
const SUBVOL_SETFLAGS: Opcode = opcode::write::<u64>(GROUP, 26);

/// Whether nothing can be changed in the subvolume whose root is open.
pub(crate) fn is_read_only(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: the request writes a `u64`.
    let flags = unsafe { ioctl(fd, Getter::<SUBVOL_GETFLAGS, u64>::new()) }?;
    Ok(flags & READ_ONLY != 0)
}

/// Sets whether anything can be changed in the subvolume whose root is open.
pub(crate) fn set_read_only(fd: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let flags = if read_only { READ_ONLY } else { 0 };
    // SAFETY: the request reads a `u64`.
    Ok(unsafe { ioctl(fd, Setter::<SUBVOL_SETFLAGS, u64>::new(flags)) }?)
}

/// `btrfs_ioctl_search_args`.
#[repr(C)]
struct SearchArgs {
    tree: u64,
    min_object: u64,
    max_object: u64,
    min_offset: u64,
    max_offset: u64,
    min_transaction: u64,
    max_transaction: u64,
    min_type: u32,
    max_type: u32,
    items: u32,
    unused: [u32; 9],
    buffer: [u8; 3992],
}

const TREE_SEARCH: Opcode = opcode::read_write::<SearchArgs>(GROUP, 17);

/// A subvolume inside another one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Child {
    /// Its id.
    pub id: u64,
    /// Inode of the directory that it is in.
    pub directory: u64,
    /// Its name there.
    pub name: CString,
}

/// The subvolumes right below another one.
pub(crate) fn children(fs: BorrowedFd<'_>, id: u64) -> io::Result<Vec<Child>> {
    let mut found = Vec::new();
    let mut min_offset = 0;
    loop {
        let mut args = SearchArgs {
            tree: ROOT_TREE,
            min_object: id,
            max_object: id,
            min_offset,
            max_offset: u64::MAX,
            min_transaction: 0,
            max_transaction: u64::MAX,
            min_type: ROOT_REF,
            max_type: ROOT_REF,
            items: 4096,
            unused: [0; 9],
            buffer: [0; 3992],
        };
        // SAFETY: the request reads and writes a `btrfs_ioctl_search_args`.
        unsafe { ioctl(fs, Updater::<TREE_SEARCH, _>::new(&mut args)) }?;
        if args.items == 0 {
            return Ok(found);
        }
        let items = parse(&args.buffer, args.items).ok_or(Errno::UCLEAN)?;
        let last = items.last().map_or(u64::MAX, |child| child.id);
        found.extend(items);
        let Some(next) = last.checked_add(1) else { return Ok(found) };
        min_offset = next;
    }
}

/// Reads what a search for `ROOT_REF` items gave: for each a `btrfs_ioctl_search_header` and a `btrfs_root_ref`, which is
/// followed by the name.
fn parse(mut buffer: &[u8], count: u32) -> Option<Vec<Child>> {
    const HEADER: usize = 32;
    const REFERENCE: usize = 18;
    let u64_at = |bytes: &[u8], at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    (0..count)
        .map(|_| {
            let length = u32::from_ne_bytes(buffer.get(28..HEADER)?.try_into().ok()?);
            let (header, rest) = buffer.split_at_checked(HEADER)?;
            let (item, rest) = rest.split_at_checked(length.try_into().ok()?)?;
            buffer = rest;
            let name = CString::new(item.get(REFERENCE..)?).ok()?;
            Some(Child { id: u64_at(header, 16)?, directory: u64_at(item, 0)?.to_le(), name })
        })
        .collect()
}

/// Opens the directory with this inode number in a subvolume, however it is reached. `fs` is any file of the file
/// system.
pub(crate) fn open_directory(fs: BorrowedFd<'_>, subvolume: u64, inode: u64) -> io::Result<OwnedFd> {
    /// `file_handle` of open_by_handle_at(2) with a `btrfs_fid` (`fs/btrfs/export.h`) without parent in it, which has 20
    /// bytes; a generation of 0 stands for any.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        inode: [u8; 8],
        subvolume: [u8; 8],
        generation: u32,
    }
    let (inode, subvolume) = (inode.to_ne_bytes(), subvolume.to_ne_bytes());
    let mut handle = Handle { bytes: 20, kind: FILE_ID, inode, subvolume, generation: 0 };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // SAFETY: the structure is valid for the call, which reads as many bytes behind its head as that tells.
    let fd = unsafe {
        let handle = (&raw mut handle).cast::<libc::c_void>();
        libc::syscall(libc::SYS_open_by_handle_at, fs.as_raw_fd(), handle, flags.bits())
    };
    match i32::try_from(fd) {
        // SAFETY: it is a new descriptor that nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Id of a quota group: that of a subvolume, or one of a higher level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// 0 for the group of one subvolume.
    pub level: u16,
    /// Number of the subvolume, as far as `level` is 0.
    pub number: u64,
}

impl Group {
    /// As `btrfs_qgroup_level` takes it apart.
    fn raw(self) -> u64 {
        u64::from(self.level) << 48 | self.number
    }
}

const QUOTA_CTL: Opcode = opcode::read_write::<[u64; 2]>(GROUP, 40);
const QGROUP_ASSIGN: Opcode = opcode::write::<[u64; 3]>(GROUP, 41);
const QGROUP_CREATE: Opcode = opcode::write::<[u64; 2]>(GROUP, 42);
const QGROUP_LIMIT: Opcode = opcode::read::<[u64; 6]>(GROUP, 43);

/// Turns quotas on: `BTRFS_QUOTA_CTL_ENABLE_SIMPLE_QUOTA` or `BTRFS_QUOTA_CTL_ENABLE`.
pub(crate) fn enable_quotas(fs: BorrowedFd<'_>, simple: bool) -> io::Result<()> {
    let mut args: [u64; 2] = [if simple { 4 } else { 1 }, 0];
    // SAFETY: the request reads and writes a `btrfs_ioctl_quota_ctl_args`, two `u64`.
    Ok(unsafe { ioctl(fs, Updater::<QUOTA_CTL, _>::new(&mut args)) }?)
}

/// Makes a quota group or removes it.
pub(crate) fn set_group(fs: BorrowedFd<'_>, group: Group, present: bool) -> io::Result<()> {
    let args = [u64::from(present), group.raw()];
    // SAFETY: the request reads a `btrfs_ioctl_qgroup_create_args`, two `u64`.
    Ok(unsafe { ioctl(fs, Setter::<QGROUP_CREATE, _>::new(args)) }?)
}

/// Makes one quota group a member of another, or ends that.
pub(crate) fn set_member(fs: BorrowedFd<'_>, member: Group, group: Group, present: bool) -> io::Result<()> {
    let args = [u64::from(present), member.raw(), group.raw()];
    // SAFETY: the request reads a `btrfs_ioctl_qgroup_assign_args`, three `u64`.
    Ok(unsafe { ioctl(fs, Setter::<QGROUP_ASSIGN, _>::new(args)) }?)
}

/// Limits what a quota group may refer to.
pub(crate) fn set_limit(fs: BorrowedFd<'_>, group: Group, bytes: Option<u64>) -> io::Result<()> {
    // All ones take a limit away.
    let args = [group.raw(), LIMIT_REFERENCED, bytes.unwrap_or(u64::MAX), 0, 0, 0];
    // SAFETY: the request, for all that its number says, reads a `btrfs_ioctl_qgroup_limit_args`, six `u64`.
    Ok(unsafe { ioctl(fs, Setter::<QGROUP_LIMIT, _>::new(args)) }?)
}

/// The part of `btrfs_ioctl_fs_info_args` that is of use here, in its size.
#[repr(C)]
#[derive(Clone, Copy)]
struct FsInfo {
    max_id: u64,
    devices: u64,
    fsid: [u8; 16],
    rest: [u8; 992],
}

const FS_INFO: Opcode = opcode::read::<FsInfo>(GROUP, 31);

/// The UUID of the file system.
pub(crate) fn filesystem(fs: BorrowedFd<'_>) -> io::Result<uuid::Uuid> {
    // SAFETY: the request writes a `btrfs_ioctl_fs_info_args`.
    let info = unsafe { ioctl(fs, Getter::<FS_INFO, FsInfo>::new()) }?;
    Ok(uuid::Uuid::from_bytes(info.fsid))
}

/// `btrfs_ioctl_vol_args`.
#[repr(C)]
struct ResizeArgs {
    fd: i64,
    size: [u8; 4088],
}

const RESIZE: Opcode = opcode::write::<ResizeArgs>(GROUP, 3);

/// Lets the file system take all of its device.
pub(crate) fn grow(fs: BorrowedFd<'_>) -> io::Result<()> {
    let mut args = ResizeArgs { fd: 0, size: [0; 4088] };
    args.size[..3].copy_from_slice(b"max");
    // SAFETY: the request reads a `btrfs_ioctl_vol_args`.
    Ok(unsafe { ioctl(fs, Setter::<RESIZE, _>::new(args)) }?)
}

/// Keeps files made in this directory from now on where they are when they are written to: what is written in place, as
/// the disk of a virtual machine, would else fall into pieces.
pub(crate) fn write_in_place(dir: BorrowedFd<'_>) -> io::Result<()> {
    let flags = fs::ioctl_getflags(dir)? | fs::IFlags::NOCOW;
    Ok(fs::ioctl_setflags(dir.as_fd(), flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn structures_have_the_sizes_of_the_kernel() {
        assert_eq!(size_of::<VolumeArgs>(), 4096);
        assert_eq!(size_of::<LookupArgs>(), 4096);
        assert_eq!(size_of::<SearchArgs>(), 4096);
        assert_eq!(size_of::<FsInfo>(), 1024);
        assert_eq!(size_of::<ResizeArgs>(), 4096);
        assert_eq!(Group { level: 1, number: 258 }.raw(), 0x1_0000_0000_0102);
    }

    fn item(id: u64, directory: u64, name: &[u8]) -> Vec<u8> {
        let mut item = [0_u64.to_ne_bytes(), 256_u64.to_ne_bytes(), id.to_ne_bytes()].concat();
        item.extend(ROOT_REF.to_ne_bytes());
        item.extend((18 + name.len() as u32).to_ne_bytes());
        item.extend(directory.to_le_bytes());
        item.extend([0; 8]);
        item.extend((name.len() as u16).to_le_bytes());
        item.extend(name);
        item
    }

    #[test]
    fn results_of_searches_are_read() {
        let buffer = [item(258, 256, b"one"), item(300, 1 << 40, b"two")].concat();
        let children = parse(&buffer, 2).unwrap();
        assert_eq!(children[0], Child { id: 258, directory: 256, name: c"one".to_owned() });
        assert_eq!(children[1], Child { id: 300, directory: 1 << 40, name: c"two".to_owned() });
        assert_eq!(parse(&buffer, 3), None, "there are only two");
    }

    proptest! {
        #[test]
        fn no_result_of_a_search_panics(buffer in proptest::collection::vec(any::<u8>(), 0..200), count in 0_u32..6) {
            let _ = parse(&buffer, count);
        }
    }
}
