//! The small root of a confined helper: a tmpfs with the host's tools read-only and the one directory to work in.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
};

use super::sys;

/// Place of the new root while it is put together; every Linux has it.
const ASSEMBLY: &str = "/tmp";

/// Something of the host that is visible inside.
#[derive(Debug, Clone)]
pub struct Bind {
    /// File or directory of the host.
    pub source: PathBuf,
    /// Place inside, relative to the root.
    pub target: String,
    /// Whether the confined job may write to it.
    pub writable: bool,
}

impl Bind {
    /// A writable directory.
    pub fn writable(source: &Path, target: &str) -> Self {
        Self { source: source.to_owned(), target: target.to_owned(), writable: true }
    }

    /// A file or directory that can only be read.
    pub fn readable(source: &Path, target: &str) -> Self {
        Self { source: source.to_owned(), target: target.to_owned(), writable: false }
    }
}

/// What the host's dynamically linked tools need.
const TOOLS: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache"];

enum Piece {
    Mount { tree: OwnedFd, target: String, directory: bool, writable: bool, program: bool },
    Link { target: String, to: PathBuf },
}

fn clone_tree(source: &Path, target: &str, writable: bool, program: bool) -> io::Result<Piece> {
    let file = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|e| named("open", source, e))?;
    let directory = fs::metadata(source)?.is_dir();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(&file, "", flags).map_err(|e| named("clone the mount of", source, e))?;
    Ok(Piece::Mount { tree, target: target.to_owned(), directory, writable, program })
}

fn named(action: &str, path: &Path, error: rustix::io::Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{action} {}: {error}", path.display()))
}

fn tool_pieces() -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for name in TOOLS {
        let path = Path::new(name);
        let target = name.trim_start_matches('/').to_owned();
        match fs::symlink_metadata(path) {
            Ok(info) if info.is_symlink() => pieces.push(Piece::Link { target, to: fs::read_link(path)? }),
            Ok(_) => pieces.push(clone_tree(path, &target, false, true)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(pieces)
}

/// Leaves the host's mounts behind: afterwards the root holds only `binds` and, if wanted, the tools.
pub fn enter(binds: &[Bind], tools: bool) -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWNS)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    // All sources are held before the assembly place hides what lies below it.
    let mut pieces = if tools { tool_pieces()? } else { Vec::new() };
    for bind in binds {
        pieces.push(clone_tree(&bind.source, &bind.target, bind.writable, false)?);
    }
    let root = tmpfs()?;
    move_to(&root, Path::new(ASSEMBLY))?;
    for piece in &pieces {
        place(piece)?;
    }
    if tools {
        // resize2fs insists on looking whether its file is mounted.
        let etc = Path::new(ASSEMBLY).join("etc");
        fs::create_dir_all(&etc)?;
        fs::File::create(etc.join("mtab"))?;
    }
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount_remount(ASSEMBLY, flags, "")?;
    std::env::set_current_dir(ASSEMBLY)?;
    sys::pivot_here()?;
    std::env::set_current_dir("/")
}

fn tmpfs() -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "size", "1m")?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "0755")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn move_to(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    rustix::mount::move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| named("mount on", target, e))
}

fn place(piece: &Piece) -> io::Result<()> {
    match piece {
        Piece::Link { target, to } => symlink(to, Path::new(ASSEMBLY).join(target)),
        Piece::Mount { tree, target, directory, writable, program } => {
            let target = Path::new(ASSEMBLY).join(target);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            if *directory {
                fs::create_dir_all(&target)?;
            } else {
                fs::File::create(&target)?;
            }
            move_to(tree, &target)?;
            let mut flags = MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
            if !writable {
                flags |= MountFlags::RDONLY;
            }
            if !program {
                flags |= MountFlags::NOEXEC;
            }
            rustix::mount::mount_remount(&target, flags, "").map_err(|e| named("restrict the mount on", &target, e))
        }
    }
}
