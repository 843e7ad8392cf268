//! The layer that makes a bootable system of a root file system.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use super::inspect::{LAYER, REMOVED};
use crate::unpack::budget::Budget;
use crate::unpack::{archive, squash, tarball, tree};
use crate::wire::{Failure, JobResult};

/// Longest list of removed paths, in bytes.
const REMOVED_MAX: u64 = 4 << 20;

/// Applies the layer held by the metadata archive over the tree at `into`, using `scratch` for the layer's file.
/// Both are paths inside the confinement.
pub fn apply(metadata: File, into: &str, scratch: &str, budget: &mut Budget) -> JobResult<()> {
    let file = format!("{scratch}/layer.squashfs");
    let removed = extract(metadata, &file, budget)?;
    squash::unpack(Path::new(&file), Path::new(into), budget)?;
    std::fs::remove_file(&file).map_err(Failure::from_io("remove the unpacked layer"))?;
    let tree = tree::open_directory(into).map_err(Failure::from_io("open the tree"))?;
    for path in removed {
        remove(&tree, &path).map_err(Failure::from_io(format!("remove \"{path}\" as the layer wants")))?;
    }
    Ok(())
}

fn extract(metadata: File, file: &str, budget: &mut Budget) -> JobResult<Vec<String>> {
    let mut found = false;
    let mut removed = Vec::new();
    let archive = archive::open(metadata)?;
    tarball::visit(archive, budget, &mut |member, budget| {
        let path = member.parts()?.join(&b'/');
        if path == LAYER.as_bytes() {
            budget.take_bytes(member.size())?;
            let mut out = File::create(file).map_err(Failure::from_io("create a file for the layer"))?;
            member.copy_to(&mut out)?;
            out.flush().map_err(Failure::from_io("write the layer"))?;
            found = true;
        } else if path == REMOVED.as_bytes() {
            removed = serde_json::from_slice(&member.content(REMOVED_MAX)?)
                .map_err(|e| Failure::invalid(format!("{REMOVED} of the image is not valid: {e}")))?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if found { Ok(removed) } else { Err(Failure::invalid(format!("the image has no {LAYER}"))) }
}

/// Removes one file or empty directory; a path that is not there, or leads through a link, is passed over.
fn remove(tree: &std::os::fd::OwnedFd, path: &str) -> std::io::Result<()> {
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    if name.is_empty() || name == "." || name == ".." {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let Ok(directory) = rustix::fs::openat2(tree, parent, flags, Mode::empty(), resolve) else { return Ok(()) };
    use rustix::io::Errno;
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => match rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::NOENT) => Ok(()),
            Err(e) => Err(e.into()),
        },
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
