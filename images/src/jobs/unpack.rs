//! Unpacking an image for a container.

use std::path::Path;

use serde_json::{Value, json};

use crate::confine::{self, Bind};
use crate::jobs::{self, Limits};
use crate::unpack::budget::Budget;
use crate::unpack::decode::Format;
use crate::unpack::tarball::{self, Choice};
use crate::unpack::tree::{self, Tree};
use crate::unpack::{archive, check, squash};
use crate::wire::{self, Failure, JobResult};

/// Place of the directory to fill, inside.
pub const DEST: &str = "/dest";
const SOURCE: &str = "/source";

/// Unpacks `metadata.yaml`, `templates/` and `rootfs/` into the empty directory `dest`.
pub fn run(metadata: &Path, rootfs: Option<&Path>, dest: &Path, limits: Limits) -> JobResult<i32> {
    let directory = jobs::open(dest)?;
    let room = confine::room(&directory, limits.max_bytes).map_err(Failure::from_io("look at free space"))?;
    let metadata = jobs::open(metadata)?;
    let mut binds = vec![Bind::writable(dest, DEST.trim_start_matches('/'))];
    binds.extend(rootfs.map(|path| Bind::readable(path, SOURCE.trim_start_matches('/'))));
    let confinement = jobs::restoring(binds, room);
    let split = rootfs.is_some();
    jobs::confined(&confinement, || {
        let mut budget = Budget::new(room, limits.max_entries);
        wire::progress("unpack", None, "Unpacking the image");
        let devices = everything(metadata, split, DEST, &mut budget)?;
        check::image(open_dir(DEST)?, true)?;
        Ok::<Value, _>(json!({ "devices_left_out": devices }))
    })
}

fn open_dir(path: &str) -> JobResult<std::os::fd::OwnedFd> {
    tree::open_directory(path).map_err(Failure::from_io("open the directory to fill"))
}

/// Fills directory `dest` (a path inside); `split` tells that the root file system is the second file. Gives the
/// number of device nodes left out, as far as it is known.
pub fn everything(metadata: std::fs::File, split: bool, dest: &str, budget: &mut Budget) -> JobResult<u64> {
    let mut into = Tree::new(open_dir(dest)?);
    let summary = tarball::unpack(archive::open(metadata)?, &mut into, budget, &mut |parts| top_choice(parts, split))?;
    let mut devices = summary.devices;
    if split {
        devices += rootfs(&format!("{dest}/rootfs"), budget)?;
    }
    Ok(devices)
}

/// Which members of the metadata archive are wanted.
fn top_choice(parts: &[Vec<u8>], split: bool) -> Choice {
    match parts.first().map(Vec::as_slice) {
        Some(b"metadata.yaml") if parts.len() == 1 => Choice::Take,
        Some(b"templates") => Choice::Take,
        Some(b"rootfs") if !split => inner_choice(&parts[1..]),
        _ => Choice::Skip,
    }
}

/// What lies in `/dev` is made afresh for every instance.
fn inner_choice(parts: &[Vec<u8>]) -> Choice {
    if parts.len() > 1 && parts[0] == b"dev" { Choice::Skip } else { Choice::Take }
}

fn rootfs(into: &str, budget: &mut Budget) -> JobResult<u64> {
    let mut source = jobs::open(Path::new(SOURCE))?;
    match archive::format_of(&mut source)? {
        Format::Squashfs => {
            squash::unpack(Path::new(SOURCE), Path::new(into), budget)?;
            Ok(0)
        }
        Format::Qcow2 => {
            Err(Failure::invalid("the image holds a disk, not a root file system; launch it as a virtual machine"))
        }
        _ => {
            // The name may be taken by the metadata archive only if that lied about being split; it is skipped then.
            std::fs::create_dir(into).map_err(Failure::from_io("create the rootfs directory"))?;
            let mut tree = Tree::new(open_dir(into)?);
            let summary = tarball::unpack(archive::open(source)?, &mut tree, budget, &mut |parts| inner_choice(parts))?;
            Ok(summary.devices)
        }
    }
}
