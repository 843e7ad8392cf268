//! What kind of image the uploaded files are.

use std::ops::ControlFlow;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::confine::{Confinement, Filter};
use crate::jobs::{self, Limits};
use crate::unpack::archive;
use crate::unpack::budget::Budget;
use crate::unpack::check::METADATA_MAX;
use crate::unpack::decode::Format;
use crate::unpack::tarball;
use crate::wire::{Failure, JobResult};

/// Place of the files a virtual machine needs beyond the root file system.
pub const LAYER: &str = "vm/layer.squashfs";
/// Place of the list of paths the layer removes.
pub const REMOVED: &str = "vm/removed.json";

/// What the helper found out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Text of `metadata.yaml`.
    pub metadata: String,
    /// The metadata archive holds a root file system as well.
    pub unified: bool,
    /// The metadata archive holds a layer for virtual machines.
    pub layer: bool,
    /// What the second file is.
    pub rootfs: Option<RootfsKind>,
}

/// Kinds of root file system files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootfsKind {
    /// squashfs.
    Squashfs,
    /// tar, compressed or not.
    Tar,
    /// A qcow2 disk.
    Qcow2,
}

/// Looks at the files without unpacking anything.
pub fn run(metadata: &Path, rootfs: Option<&Path>, limits: Limits) -> JobResult<i32> {
    let mut archive = jobs::open(metadata)?;
    let external = archive::format_of(&mut archive)? == Format::Bzip2;
    let rootfs = match rootfs {
        None => None,
        Some(path) => Some(match archive::format_of(&mut jobs::open(path)?)? {
            Format::Squashfs => RootfsKind::Squashfs,
            Format::Qcow2 => RootfsKind::Qcow2,
            _ => RootfsKind::Tar,
        }),
    };
    let mut confinement = jobs::parsing();
    if external {
        confinement = Confinement { tools: true, filter: Filter::Tools, memory: jobs::TOOLS_MEMORY, ..confinement };
    }
    jobs::confined(&confinement, || {
        let mut inspection = look(archive::open(archive)?, limits)?;
        inspection.rootfs = rootfs;
        Ok(inspection)
    })
}

fn look(archive: impl std::io::Read, limits: Limits) -> JobResult<Inspection> {
    let mut inspection = Inspection::default();
    let mut metadata = None;
    let mut budget = Budget::new(limits.max_bytes, limits.max_entries);
    tarball::visit(archive, &mut budget, &mut |member, _| {
        let parts = member.parts()?;
        let path = parts.join(&b'/');
        if path == b"metadata.yaml" {
            metadata = Some(member.content(METADATA_MAX)?);
        }
        inspection.unified |= parts.first().is_some_and(|top| top == b"rootfs");
        inspection.layer |= path == LAYER.as_bytes() && member.kind().is_file();
        Ok(ControlFlow::Continue(()))
    })?;
    let metadata = metadata.ok_or_else(|| {
        Failure::invalid(
            "no metadata.yaml at the top of the image's archive; it is no LXD image, or the files are swapped",
        )
    })?;
    inspection.metadata =
        String::from_utf8(metadata).map_err(|_| Failure::invalid("metadata.yaml of the image is not UTF-8 text"))?;
    Ok(inspection)
}
