//! Packing a volume as an image.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use serde_json::{Value, json};

use crate::confine::{self, Bind};
use crate::jobs;
use crate::pack::{Archive, Compression, Compressor};
use crate::unpack::{tool, tree};
use crate::wire::{self, Failure, JobResult};

const SOURCE: &str = "/source";
const WORK: &str = "/work";

/// Name of the archive that is made in the directory to work in.
pub const ARCHIVE: &str = "image.tar";
/// Name of the disk that is made there.
pub const DISK: &str = "rootfs.qcow2";
/// Name of the metadata, which is there already.
pub const METADATA: &str = "metadata.yaml";

/// Makes `work`/image.tar of `work`/metadata.yaml and the templates of `volume`, and for a container of its root file
/// system too.
pub fn archive(volume: &Path, work: &Path, disk: bool, compression: Compression) -> JobResult<i32> {
    let room = confine::room(jobs::open(work)?, u64::MAX).map_err(Failure::from_io("look at free space"))?;
    let binds = vec![Bind::writable(work, "work"), Bind::readable(volume, "source")];
    jobs::confined(&jobs::restoring(binds, room), || {
        wire::progress("pack", None, "Packing the image");
        let source = tree::open_directory(SOURCE).map_err(Failure::from_io("open the volume"))?;
        let metadata = std::fs::read(format!("{WORK}/{METADATA}")).map_err(Failure::from_io("read the metadata"))?;
        let out = File::create(format!("{WORK}/{ARCHIVE}")).map_err(Failure::from_io("create the archive"))?;
        let write = || -> std::io::Result<()> {
            let mut archive = Archive::new(Compressor::new(out, compression)?);
            archive.add(METADATA, &metadata)?;
            archive.add_tree(source.as_fd(), c"templates", Path::new("templates"))?;
            if !disk {
                archive.add_tree(source.as_fd(), c"rootfs", Path::new("rootfs"))?;
            }
            archive.finish()?.finish()
        };
        write().map_err(Failure::from_io("pack the image"))?;
        Ok::<Value, _>(json!({}))
    })
}

/// Makes `work`/rootfs.qcow2 of the raw disk `source`.
pub fn disk(source: &Path, work: &Path) -> JobResult<i32> {
    let room = confine::room(jobs::open(work)?, u64::MAX).map_err(Failure::from_io("look at free space"))?;
    let binds = vec![Bind::writable(work, "work"), Bind::readable(source, "source")];
    jobs::confined(&jobs::restoring(binds, room), || {
        wire::progress("pack", None, "Packing the disk");
        let mut command = tool::command("qemu-img");
        // The format is given: guessing it would let the content decide which other files are opened.
        command.args(["convert", "-f", "raw", "-O", "qcow2", "-c", SOURCE]).arg(format!("{WORK}/{DISK}"));
        tool::must("qemu-img", command, Failure::internal)?;
        Ok::<Value, _>(json!({}))
    })
}
