//! Everything a virtual machine boots from, read from its disk.

use std::fs::File;
use std::io::Read;

use sha2::{Digest, Sha256};

use super::bzimage;
use super::disk::{self, Volume};
use super::find::{self, Files};
use super::modules;
use crate::unpack::decode;
use crate::wire::{Failure, JobResult};

/// Largest kernel file.
const KERNEL_MAX: u64 = 256 << 20;
/// Largest initial RAM disk.
const INITRD_MAX: u64 = 1 << 30;
/// Largest `modules.dep`.
const MODULES_DEP_MAX: u64 = 16 << 20;
/// Largest kernel module, unpacked.
const MODULE_MAX: u64 = 16 << 20;
/// Longest sum of kernel arguments that is passed on.
const ARGS_MAX: usize = 1024;
/// The archives an initial RAM disk consists of begin at multiples of this.
const INITRD_ALIGN: usize = 512;

/// A named file.
pub struct Item {
    /// File name.
    pub name: String,
    /// Content.
    pub content: Vec<u8>,
}

/// What was found, before anything is unpacked.
pub struct Selection {
    /// The kernel as it lies on the disk.
    pub kernel: Vec<u8>,
    /// The initial RAM disk.
    pub initrd: Option<Vec<u8>>,
    /// Modules in load order, as they lie on the disk.
    pub modules: Vec<Item>,
    /// The kernel's release.
    pub release: String,
    /// `root=` argument.
    pub root: String,
    /// Further arguments of the image's boot loader.
    pub args: Vec<String>,
}

/// Looks through the disk.
pub fn select(file: File) -> JobResult<Selection> {
    let volumes = disk::volumes(file)?;
    let found = volumes.iter().find_map(|volume| Some((volume, find::choose(volume)?)));
    let Some((volume, choice)) = found else {
        return Err(Failure::invalid(
            "no kernel found on the disk (looked for loader entries, grub.cfg, /vmlinuz and /boot/vmlinuz-*); \
             install one in the image, or launch it as a container",
        ));
    };
    let root_volume = volumes.iter().find(|volume| volume.is_root()).unwrap_or(volume);
    let kernel = must_read(volume, &choice.kernel, KERNEL_MAX)?;
    let initrd = read_initrds(volume, &choice.initrds)?;
    let release = bzimage::release(&kernel).or_else(|| release_of_name(volume, &choice.kernel)).unwrap_or_default();
    let mut args = choice.args;
    let root = take_root(&mut args).unwrap_or_else(|| root_volume.root_arg.clone());
    shorten(&mut args);
    let modules = if release.is_empty() { Vec::new() } else { read_modules(root_volume, &release) };
    Ok(Selection { kernel, initrd, modules, release, root, args })
}

fn must_read(volume: &Volume, path: &str, cap: u64) -> JobResult<Vec<u8>> {
    let content = volume.read(path, cap);
    content.ok_or_else(|| Failure::invalid(format!("{path} on the disk cannot be read or is larger than {cap} bytes")))
}

fn read_initrds(volume: &Volume, paths: &[String]) -> JobResult<Option<Vec<u8>>> {
    let mut all: Vec<u8> = Vec::new();
    for path in paths {
        all.resize(all.len().next_multiple_of(INITRD_ALIGN), 0);
        all.extend(must_read(volume, path, INITRD_MAX - (all.len() as u64).min(INITRD_MAX))?);
    }
    Ok((!all.is_empty()).then_some(all))
}

fn release_of_name(volume: &Volume, kernel: &str) -> Option<String> {
    let path = volume.canonical(kernel)?;
    let (_, release) = path.rsplit('/').next()?.split_once('-')?;
    bzimage::usable_release(release).then(|| release.to_owned())
}

/// Takes the `root=` argument out of a boot loader's arguments.
fn take_root(args: &mut Vec<String>) -> Option<String> {
    let at = args.iter().position(|arg| arg.starts_with("root="))?;
    let root = args.remove(at);
    args.retain(|arg| !arg.starts_with("root="));
    root.bytes().all(|b| b.is_ascii_graphic()).then_some(root)
}

/// Consoles are the VMM's matter, and what cannot be an argument is dropped.
fn shorten(args: &mut Vec<String>) {
    let mut room = ARGS_MAX;
    args.retain(|arg| {
        let fits = arg.bytes().all(|b| b.is_ascii_graphic()) && !arg.starts_with("console=") && arg.len() < room;
        if fits {
            room -= arg.len() + 1;
        }
        fits
    });
}

fn read_modules(volume: &Volume, release: &str) -> Vec<Item> {
    let read = |path: &str, cap| {
        ["/lib/modules", "/usr/lib/modules"].iter().find_map(|dir| volume.read(&format!("{dir}/{release}/{path}"), cap))
    };
    let Some(dependencies) = read("modules.dep", MODULES_DEP_MAX) else { return Vec::new() };
    let order = modules::load_order(&String::from_utf8_lossy(&dependencies));
    let items = order.iter().filter_map(|path| {
        Some(Item { name: format!("{}.ko", modules::name_of(path)), content: read(path, MODULE_MAX)? })
    });
    items.filter(|item| usable_name(&item.name)).collect()
}

/// Whether `name` may become a file name in the cache.
pub fn usable_name(name: &str) -> bool {
    bzimage::usable_release(name)
}

impl Selection {
    /// Digest of everything that decides what ends up in the cache.
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |name: &str, content: &[u8]| {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update((content.len() as u64).to_le_bytes());
            hash.update(content);
        };
        part("format", b"1");
        part("release", self.release.as_bytes());
        part("kernel", &self.kernel);
        part("initrd", self.initrd.as_deref().unwrap_or_default());
        for module in &self.modules {
            part(&module.name, &module.content);
        }
        hex::encode(hash.finalize())
    }

    /// The ELF kernel; a kernel that cannot be unpacked is given as it is.
    pub fn unpack_kernel(&mut self) -> JobResult<Vec<u8>> {
        let kernel = std::mem::take(&mut self.kernel);
        if bzimage::is_elf(&kernel) {
            return Ok(kernel);
        }
        match bzimage::extract(&kernel) {
            Ok(elf) => Ok(elf),
            Err(bzimage::KernelError::Compression) => Ok(kernel),
            Err(e) => Err(Failure::invalid(format!("the kernel on the disk cannot be used: {e}"))),
        }
    }
}

/// Undoes the compression of a kernel module.
pub fn unpack_module(module: &Item) -> JobResult<Vec<u8>> {
    let bad = |why: String| Failure::invalid(format!("kernel module {} on the disk: {why}", module.name));
    let format = decode::detect(&module.content);
    let reader = decode::reader(format, module.content.as_slice()).map_err(|e| bad(e.to_string()))?;
    let mut out = Vec::new();
    let reader = reader.ok_or_else(|| bad("unknown compression".into()))?;
    reader.take(MODULE_MAX + 1).read_to_end(&mut out).map_err(|e| bad(e.to_string()))?;
    if out.len() as u64 > MODULE_MAX || !bzimage::is_elf(&out) {
        return Err(bad("too large or no kernel module".into()));
    }
    Ok(out)
}
