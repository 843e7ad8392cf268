//! Disks for virtual machines.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use super::{layer, unpack};
use crate::confine::{self, Bind};
use crate::jobs::{self, Limits};
use crate::unpack::budget::Budget;
use crate::unpack::tool;
use crate::wire::{self, Failure, JobResult};

const WORK: &str = "/work";
const SOURCE: &str = "/source";

/// The features are named here, so that the host's defaults, which change with its version, do not decide which
/// guests can use the disk.
const MKE2FS_CONF: &str = "[defaults]\nbase_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr\n\
    default_mntopts = acl,user_xattr\nenable_periodic_fsck = 0\nblocksize = 4096\ninode_size = 256\ninode_ratio = 16384\n\
    [fs_types]\next4 = {\nfeatures = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize\n}\n";

/// Smallest disk that is made; growing from here reaches what the group descriptors reserve (a thousandfold).
const DISK_MIN: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Makes an ext4 image `disk.img` (in directory `work`, whose other content is scratch) of a root file system, with the
/// layer that the metadata archive holds if `with_layer`.
pub fn make(metadata: &Path, rootfs: Option<&Path>, with_layer: bool, work: &Path, limits: Limits) -> JobResult<i32> {
    let directory = jobs::open(work)?;
    let room = confine::room(&directory, limits.max_bytes).map_err(Failure::from_io("look at free space"))?;
    let (first, second) = (jobs::open(metadata)?, jobs::open(metadata)?);
    let mut binds = vec![Bind::writable(work, "work")];
    binds.extend(rootfs.map(|path| Bind::readable(path, "source")));
    // A sparse disk may be larger than what is free.
    let confinement = jobs::restoring(binds, room.max(DISK_MIN).saturating_mul(2));
    let split = rootfs.is_some();
    jobs::confined(&confinement, || {
        let mut budget = Budget::new(room, limits.max_entries);
        let tree = format!("{WORK}/tree");
        fs::create_dir(&tree).map_err(Failure::from_io("create a scratch directory"))?;
        wire::progress("unpack", Some(0), "Unpacking the image");
        unpack::everything(first, split, &tree, &mut budget)?;
        let root = format!("{tree}/rootfs");
        if with_layer {
            wire::progress("unpack", Some(40), "Adding kernel and modules");
            layer::apply(second, &root, WORK, &mut budget)?;
        }
        wire::progress("disk", Some(60), "Making the file system");
        make_ext4(&root)?;
        Ok::<Value, _>(json!({}))
    })
}

fn make_ext4(root: &str) -> JobResult<()> {
    let usage = measure(Path::new(root)).map_err(Failure::from_io("measure the unpacked image"))?;
    // A quarter more for metadata and journal, plus what a first boot writes.
    let size = (usage + usage / 4 + 256 * MIB).max(DISK_MIN).next_multiple_of(MIB);
    let config = format!("{WORK}/mke2fs.conf");
    fs::write(&config, MKE2FS_CONF).map_err(Failure::from_io("write mke2fs.conf"))?;
    let out = format!("{WORK}/disk.img");
    File::create(&out).and_then(|file| file.set_len(size)).map_err(Failure::from_io("create the disk"))?;
    let mut command = tool::command("mke2fs");
    command.env("MKE2FS_CONFIG", &config);
    command.args(["-q", "-F", "-t", "ext4", "-L", "root", "-m", "1", "-J", "size=32"]);
    command.args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-d", root]).arg(&out);
    tool::must("mke2fs", command, Failure::internal)
}

/// Bytes a tree occupies, counted in blocks of 4 KiB.
fn measure(directory: &Path) -> std::io::Result<u64> {
    let mut total = 4096;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let info = entry.metadata()?;
        if info.is_dir() {
            total += measure(&entry.path())?;
        } else {
            total += (info.blocks() * 512).next_multiple_of(4096) + 256;
        }
    }
    Ok(total)
}

/// Makes a raw disk `work`/disk.img of a qcow2 file.
pub fn convert(source: &Path, work: &Path, limits: Limits) -> JobResult<i32> {
    let room = confine::room(jobs::open(work)?, limits.max_bytes).map_err(Failure::from_io("look at free space"))?;
    let binds = vec![Bind::writable(work, "work"), Bind::readable(source, "source")];
    let virtual_size = virtual_size(source)?;
    let confinement = jobs::restoring(binds, room.max(virtual_size));
    jobs::confined(&confinement, || {
        wire::progress("disk", None, "Converting the disk");
        let mut command = tool::command("qemu-img");
        // The format is given: guessing it would let the content decide which other files are opened.
        command.args(["convert", "-f", "qcow2", "-O", "raw", "-S", "64k", SOURCE]).arg(format!("{WORK}/disk.img"));
        tool::must("qemu-img", command, Failure::invalid)?;
        Ok::<Value, _>(json!({}))
    })
}

/// Size of the disk a qcow2 file describes. Files with a backing file are refused.
fn virtual_size(source: &Path) -> JobResult<u64> {
    use std::io::Read;
    let mut header = [0; 32];
    jobs::open(source)?.read_exact(&mut header).map_err(|_| Failure::invalid("the image's disk is cut short"))?;
    let number = |at: usize| header[at..at + 8].iter().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    if number(8) != 0 {
        return Err(Failure::invalid("the image's disk refers to another file; flatten it first"));
    }
    Ok(number(24))
}

/// Grows the file system on `disk`, which fills it from its first byte, to the size of the file.
pub fn grow(disk: &Path) -> JobResult<i32> {
    let size = fs::metadata(disk).map_err(Failure::from_io(format!("look at {}", disk.display())))?.len();
    let bind = Bind { source: disk.to_owned(), target: "disk.img".to_owned(), writable: true };
    let confinement = jobs::restoring(vec![bind], size);
    jobs::confined(&confinement, || {
        // Freshly made and never mounted, so there is nothing a check would find.
        let mut command = tool::command("resize2fs");
        command.args(["-f", "/disk.img"]);
        tool::must("resize2fs", command, Failure::internal)?;
        Ok::<Value, _>(json!({}))
    })
}
