//! What `mmdebstrap` calls when the packages of the root file system are installed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::system;
use crate::wire::{Failure, JobResult};

/// Variable that holds the path of this program.
pub const HELPER: &str = "BERTH_BUILD_HELPER";
/// Variable that holds where the copy of the root file system goes.
pub const BASE: &str = "BERTH_BUILD_BASE";
/// Variable that holds the name of the kernel's package.
pub const KERNEL: &str = "BERTH_BUILD_KERNEL";

/// Said when the root file system is copied.
pub const COPYING: &str = "copying the root file system";
/// Said when the kernel is installed.
pub const INSTALLING: &str = "installing kernel and initial RAM disk";

fn variable(name: &str) -> JobResult<OsString> {
    std::env::var_os(name)
        .ok_or_else(|| Failure::internal(format!("{name} is not set; the build calls this by itself")))
}

fn must(what: &str, command: &mut Command) -> JobResult<()> {
    let status = command.status().map_err(Failure::from_io(what))?;
    if status.success() { Ok(()) } else { Err(Failure::internal(format!("{what} failed ({status})"))) }
}

/// Makes a Berth image of the plain system in `root`, copies it, and goes on to make it bootable.
pub fn hook(root: &Path) -> JobResult<i32> {
    let base = PathBuf::from(variable(BASE)?);
    let kernel = variable(KERNEL)?;
    system::settle(root).map_err(Failure::from_io("write configuration"))?;
    let enable = ["systemctl", "enable", "systemd-networkd.service", "systemd-resolved.service"];
    must("enable the network's services", Command::new("chroot").arg(root).args(enable))?;
    eprintln!("I: {COPYING}");
    let copy = ["--archive", "--one-file-system", "--reflink=auto"];
    must("copy the root file system", Command::new("cp").args(copy).arg(root).arg(&base))?;
    eprintln!("I: {INSTALLING}");
    system::prepare_kernel(root).map_err(Failure::from_io("write configuration"))?;
    install(root, &kernel)?;
    fs::metadata(root.join("vmlinuz")).map_err(Failure::from_io("find the kernel that was installed"))?;
    Ok(0)
}

/// Installs with the host's apt, as `mmdebstrap` does. Without the chroot option packages would end up on the host.
fn install(root: &Path, kernel: &OsString) -> JobResult<()> {
    let mut chroot = OsString::from("DPkg::Chroot-Directory=");
    chroot.push(root);
    let mut command = Command::new("apt-get");
    command
        .env("APT_CONFIG", variable("MMDEBSTRAP_APT_CONFIG")?)
        .args(["--yes", "--no-install-recommends", "-oDPkg::Options::=--force-confold", "-o"])
        .arg(chroot)
        .arg("install")
        .arg(kernel)
        .args(["initramfs-tools", "kmod", "zstd"]);
    must("install the kernel", &mut command)
}
