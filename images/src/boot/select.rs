//! Everything a virtual machine boots from, read from its disk.

use std::fs::File;
use std::io::Read;

use sha2::{Digest, Sha256};

use super::bzimage;
use super::disk::{self, Contents, Volume};
use super::find::{self, Choice, Files};
use super::modules;
use crate::unpack::decode;
use crate::wire::{Failure, JobResult};

/// The part of a bzImage that holds its header and what that refers to by 16 bits.
const SETUP_SIZE: usize = 0x1_0200;
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

/// What a disk can be booted from.
pub enum Selection {
    /// It holds a kernel.
    Own(Located),
    /// It holds a root file system on this device of the guest, and no kernel.
    RootOnly {
        /// E.g. `/dev/vda`.
        device: String,
    },
}

/// A kernel with what belongs to it, found but not read.
pub struct Located {
    contents: Contents,
    /// The file system with kernel and initial RAM disks.
    volume: usize,
    /// The one with the modules.
    root_volume: usize,
    choice: Choice,
    release: String,
    root: String,
}

/// A kernel with what belongs to it, before anything is unpacked.
pub struct OwnKernel {
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
    let contents = disk::contents(file)?;
    let volumes = &contents.volumes;
    let Some((number, choice)) = find::choose(volumes) else {
        let Some(root) = volumes.iter().find(|volume| volume.is_root()) else {
            return Err(Failure::invalid(format!(
                "the disk holds neither a kernel (looked for loader entries, grub.cfg, extlinux.conf, /vmlinuz and \
                 /boot/vmlinuz-*) nor a root file system (looked for /etc); install a system on it{}",
                contents.unread()
            )));
        };
        return Ok(Selection::RootOnly { device: root.device.clone() });
    };
    let volume = &volumes[number];
    let root_volume = volumes.iter().position(Volume::is_root).unwrap_or(number);
    let start = volume.read_start(&choice.kernel, SETUP_SIZE).unwrap_or_default();
    let release = bzimage::release(&start).or_else(|| release_of_name(volume, &choice.kernel)).unwrap_or_default();
    let mut choice = choice;
    let root = take_root(&mut choice.args).unwrap_or_else(|| volumes[root_volume].root_arg.clone());
    shorten(&mut choice.args);
    Ok(Selection::Own(Located { contents, volume: number, root_volume, choice, release, root }))
}

impl Located {
    /// Names the state of all that was found: as long as it stays the same, so does what [`Located::read`] gives. `None`
    /// if the file system keeps too little of its files to tell.
    pub fn stamp(&self) -> Option<String> {
        let volume = &self.contents.volumes[self.volume];
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        part("1");
        part(&self.root);
        for text in &self.choice.args {
            part(text);
        }
        for path in std::iter::once(&self.choice.kernel).chain(&self.choice.initrds) {
            part(&volume.identity(path)?);
        }
        let modules = &self.contents.volumes[self.root_volume];
        for directory in module_directories(&self.release) {
            part(&modules.identity(&format!("{directory}/modules.dep")).unwrap_or_default());
        }
        Some(hex::encode(hash.finalize()))
    }

    /// Reads it all.
    pub fn read(self) -> JobResult<OwnKernel> {
        let Self { contents, volume, root_volume, choice, release, root } = self;
        let (volume, root_volume) = (&contents.volumes[volume], &contents.volumes[root_volume]);
        let kernel = must_read(volume, &choice.kernel, KERNEL_MAX)?;
        let initrd = read_initrds(volume, &choice.initrds)?;
        let modules = if release.is_empty() { Vec::new() } else { read_modules(root_volume, &release) };
        Ok(OwnKernel { kernel, initrd, modules, release, root, args: choice.args })
    }
}

fn module_directories(release: &str) -> [String; 2] {
    ["/lib/modules", "/usr/lib/modules"].map(|directory| format!("{directory}/{release}"))
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
    let read =
        |path: &str, cap| module_directories(release).iter().find_map(|dir| volume.read(&format!("{dir}/{path}"), cap));
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

impl OwnKernel {
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
