//! `berth-image`: the helper that does with images what the daemon must not do itself. It has one thread, confines
//! itself, and writes progress and result as JSON lines to its standard output.

use std::path::PathBuf;
use std::process::ExitCode;

use berth_images::jobs::backup::Volumes;
use berth_images::jobs::{self, Limits};
use berth_images::{Compression, wire};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Tell what kind of image the files are.
    Inspect {
        #[arg(long)]
        metadata: PathBuf,
        #[arg(long)]
        rootfs: Option<PathBuf>,
        #[command(flatten)]
        limits: Limits,
    },
    /// Unpack an image for a container.
    Unpack {
        #[arg(long)]
        metadata: PathBuf,
        #[arg(long)]
        rootfs: Option<PathBuf>,
        #[arg(long)]
        dest: PathBuf,
        #[command(flatten)]
        limits: Limits,
    },
    /// Make a disk image of a root file system.
    Disk {
        #[arg(long)]
        metadata: PathBuf,
        #[arg(long)]
        rootfs: Option<PathBuf>,
        /// Add the layer for virtual machines that the metadata archive holds.
        #[arg(long)]
        layer: bool,
        #[arg(long)]
        work: PathBuf,
        #[command(flatten)]
        limits: Limits,
    },
    /// Make a raw disk image of a qcow2 file.
    Convert {
        #[arg(long)]
        source: PathBuf,
        #[arg(long)]
        work: PathBuf,
        #[command(flatten)]
        limits: Limits,
    },
    /// Make an archive of a volume.
    Pack {
        #[arg(long)]
        volume: PathBuf,
        #[arg(long)]
        work: PathBuf,
        /// The root file system is a disk, which is packed by itself.
        #[arg(long)]
        disk: bool,
        #[arg(long)]
        compression: Compression,
    },
    /// Make a qcow2 file of a raw disk.
    PackDisk {
        #[arg(long)]
        source: PathBuf,
        #[arg(long)]
        work: PathBuf,
    },
    /// Write a backup of an instance to standard input, which is open for writing.
    BackupPack {
        #[command(flatten)]
        volumes: Volumes,
        /// File with the text of its first member.
        #[arg(long)]
        index: PathBuf,
        #[arg(long)]
        compression: Compression,
    },
    /// Tell what is in a backup.
    BackupDescribe {
        #[arg(long)]
        archive: PathBuf,
    },
    /// Unpack a backup into empty directories.
    BackupUnpack {
        #[arg(long)]
        archive: PathBuf,
        #[command(flatten)]
        volumes: Volumes,
        /// Ids of the host that stand for those of the container, for each snapshot and at last the instance.
        #[arg(long = "idmap", allow_hyphen_values = true)]
        idmaps: Vec<String>,
        /// Largest disk, in bytes.
        #[arg(long)]
        disk_max: u64,
    },
    /// Grow the file system on a disk image to the size of the file.
    Grow {
        #[arg(long)]
        disk: PathBuf,
    },
    /// Read kernel and initial RAM disk from the disk on standard input.
    Boot {
        #[arg(long)]
        cache: PathBuf,
        /// Stamp of a state in which the disk need not be read.
        #[arg(long)]
        known: Vec<String>,
    },
    /// Build an image from a distribution's packages.
    Build(jobs::build::Request),
    /// Called by the build inside the new system's mounts.
    #[command(hide = true)]
    BuildHook { root: PathBuf },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().job {
        Job::Inspect { metadata, rootfs, limits } => jobs::inspect::run(&metadata, rootfs.as_deref(), limits),
        Job::Unpack { metadata, rootfs, dest, limits } => {
            jobs::unpack::run(&metadata, rootfs.as_deref(), &dest, limits)
        }
        Job::Disk { metadata, rootfs, layer, work, limits } => {
            jobs::disk::make(&metadata, rootfs.as_deref(), layer, &work, limits)
        }
        Job::Convert { source, work, limits } => jobs::disk::convert(&source, &work, limits),
        Job::Pack { volume, work, disk, compression } => jobs::pack::archive(&volume, &work, disk, compression),
        Job::PackDisk { source, work } => jobs::pack::disk(&source, &work),
        Job::BackupPack { volumes, index, compression } => {
            output().and_then(|out| jobs::backup::pack(&volumes, &index, compression, out))
        }
        Job::BackupDescribe { archive } => jobs::backup::describe(&archive),
        Job::BackupUnpack { archive, volumes, idmaps, disk_max } => {
            jobs::backup::unpack(&archive, &volumes, &idmaps, disk_max)
        }
        Job::Grow { disk } => jobs::disk::grow(&disk),
        Job::Boot { cache, known } => jobs::boot::run(&cache, &known),
        Job::Build(request) => jobs::build::run(&request),
        Job::BuildHook { root } => jobs::build::hook(&root),
    };
    let code = outcome.unwrap_or_else(|failure| {
        wire::fail(&failure);
        1
    });
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// What the caller passed as standard input to be written to; standard output is for the report.
fn output() -> wire::JobResult<std::os::fd::OwnedFd> {
    use std::os::fd::AsFd;
    let own = std::io::stdin().as_fd().try_clone_to_owned();
    own.map_err(wire::Failure::from_io("take the file to write to"))
}
