//! The files that the lab boots from.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use berth_agent::cpio::Cpio;

use super::kernel::{self, Kernel};

/// Modules that the first stage needs to reach the root file system.
const BOOT_MODULES: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay"];
const STAGE1: &str = include_str!("stage1.sh");
const STAGE2: &str = include_str!("stage2.sh");

/// A kernel with an initrd.
#[derive(Debug)]
pub struct Files {
    pub kernel: Kernel,
    pub initrd: PathBuf,
}

/// Makes what is missing; several callers at once wait for each other.
pub fn prepare(directory: &Path) -> Result<Files> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let lock = File::create(directory.join("prepare.lock"))?;
    lock.lock()?;
    let kernel = kernel::prepare(directory)?;
    let initrd = directory.join("initrd");
    let content = build_initrd(&kernel)?;
    // Written only if it changed: another lab may be booting from it.
    if fs::read(&initrd).ok().as_deref() != Some(&content) {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&content)?;
        file.persist(&initrd)?;
    }
    Ok(Files { kernel, initrd })
}

/// Uncompressed, because unpacking is slow in a software-emulated machine.
fn build_initrd(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut cpio = Cpio::new();
    for directory in ["bin", "dev", "proc", "sys", "lower", "rw", "newroot", "modules"] {
        cpio.directory(directory, 0o755);
    }
    let busybox = Path::new("/bin/busybox");
    cpio.file("bin/busybox", 0o755, &fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?);
    cpio.file("init", 0o755, STAGE1.as_bytes());
    cpio.file("stage2", 0o755, STAGE2.as_bytes());
    for (number, path) in kernel::load_order(kernel, BOOT_MODULES)?.iter().enumerate() {
        let name = path.file_name().context("a module has a name")?.to_string_lossy().into_owned();
        cpio.file(&format!("modules/{number:02}-{name}"), 0o644, &fs::read(path)?);
    }
    Ok(cpio.finish())
}
