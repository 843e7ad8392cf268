//! What callers see of images, and what is kept of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_store::doc::Document;
use berth_store::{Key, Rev};
use serde::{Deserialize, Serialize};

use crate::jobs::inspect::RootfsKind;

/// Which kinds of instances an image is good for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds {
    /// Containers.
    pub container: bool,
    /// Virtual machines.
    pub virtual_machine: bool,
}

/// One image as a project sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// SHA-256 of its files, in lower-case hexadecimal.
    pub fingerprint: String,
    /// What it is good for on this host.
    pub kinds: Kinds,
    /// LXD's type: `virtual-machine` if it holds only a disk, else `container`.
    pub image_type: &'static str,
    /// Architecture in the kernel's words.
    pub architecture: String,
    /// Size of its files.
    pub size: u64,
    /// Free properties.
    pub properties: BTreeMap<String, String>,
    /// Whether strangers may download it.
    pub public: bool,
    /// Whether it is to be kept fresh.
    pub auto_update: bool,
    /// Whether it was fetched only for making an instance.
    pub cached: bool,
    /// Name of the file it came in.
    pub filename: String,
    /// Profiles for instances made of it.
    pub profiles: Vec<String>,
    /// When it was made, seconds since 1970.
    pub created_at: i64,
    /// When it is outdated; 0 for never.
    pub expires_at: i64,
    /// When an instance was last made of it; 0 for never.
    pub last_used_at: i64,
    /// When it came here.
    pub uploaded_at: i64,
    /// Names and descriptions of its aliases.
    pub aliases: Vec<(String, String)>,
    /// Revision of the record, for `If-Match`.
    pub revision: Rev,
}

/// An alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasInfo {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Fingerprint it stands for.
    pub target: String,
    /// LXD's type of the image.
    pub image_type: &'static str,
    /// Revision of the record, for `If-Match`.
    pub revision: Rev,
}

/// Name under which the second file travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootfsName {
    /// `rootfs`: a root file system.
    Rootfs,
    /// `rootfs.img`: a disk.
    RootfsImg,
}

impl RootfsName {
    /// The name as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rootfs => "rootfs",
            Self::RootfsImg => "rootfs.img",
        }
    }
}

/// Programs and files that the image store uses.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The program `berth-image`.
    pub helper: PathBuf,
    /// The kernel for virtual machines whose disk holds none. It need not be there. What it needs to mount an ext4 root
    /// from a virtio disk is built in, or in modules in the directory `KERNEL.d` beside it, which are inserted in the
    /// order of their names.
    pub kernel: PathBuf,
}

/// Files of an upload; they lie in its [`crate::Staging`].
#[derive(Debug, Clone)]
pub struct ImportFiles {
    /// The metadata archive, or the unified archive.
    pub metadata: PathBuf,
    /// The second file of a split image.
    pub rootfs: Option<(PathBuf, RootfsName)>,
}

/// How an upload is to be taken.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Whether strangers may download it.
    pub public: bool,
    /// Properties beyond those of its metadata; they win.
    pub properties: BTreeMap<String, String>,
    /// Aliases to be made: name and description.
    pub aliases: Vec<(String, String)>,
    /// Name of the file it came in.
    pub filename: String,
    /// Fingerprint the client says it has.
    pub expected_fingerprint: Option<String>,
    /// Profiles for instances made of it.
    pub profiles: Vec<String>,
}

/// What can be changed of an image; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct ImageUpdate {
    /// Whether strangers may download it.
    pub public: Option<bool>,
    /// Whether it is to be kept fresh.
    pub auto_update: Option<bool>,
    /// Free properties.
    pub properties: Option<BTreeMap<String, String>>,
    /// Profiles for instances made of it.
    pub profiles: Option<Vec<String>>,
    /// When it is outdated.
    pub expires_at: Option<i64>,
}

/// Files of an image, with the names a download gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFiles {
    /// The metadata archive, or the unified archive.
    pub metadata: (String, PathBuf),
    /// The second file of a split image.
    pub rootfs: Option<(String, PathBuf)>,
    /// Name under which the second file travels.
    pub rootfs_name: RootfsName,
}

/// What a virtual machine boots from; the files must not be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// The kernel: ELF, or a bzImage whose payload could not be unpacked.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// `root=` argument.
    pub root: String,
    /// Further arguments.
    pub kernel_args: Vec<String>,
    /// The kernel's release; empty if unknown.
    pub release: String,
    /// Modules for vsock in load order, unpacked.
    pub modules: Vec<PathBuf>,
}

/// What is to be built.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// `debian/12` or `debian/13`.
    pub distribution: String,
    /// Further packages.
    pub packages: Vec<String>,
    /// Mirror of the Debian archive; by default the host's.
    pub mirror: Option<String>,
    /// Aliases to be made: name and description.
    pub aliases: Vec<(String, String)>,
    /// Whether strangers may download it.
    pub public: bool,
}

/// The record of an image in a project. The files are shared by all projects that have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageDoc {
    /// What it is good for by what it holds itself.
    pub kinds: Kinds,
    pub architecture: String,
    pub size: u64,
    pub rootfs: Option<RootfsKind>,
    pub properties: BTreeMap<String, String>,
    pub public: bool,
    pub auto_update: bool,
    pub filename: String,
    pub profiles: Vec<String>,
    pub created_at: i64,
    pub expires_at: i64,
    pub last_used_at: i64,
    pub uploaded_at: i64,
}

impl Document for ImageDoc {
    const KIND: &'static str = "image";
    const VERSION: u32 = 1;
}

/// The record of an alias.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AliasDoc {
    pub target: String,
    pub description: String,
}

impl Document for AliasDoc {
    const KIND: &'static str = "image alias";
    const VERSION: u32 = 1;
}

impl ImageDoc {
    /// LXD's type.
    pub fn image_type(&self) -> &'static str {
        if self.kinds.container { "container" } else { "virtual-machine" }
    }
}

pub(crate) fn image_key(project: &str, fingerprint: &str) -> Key {
    Key::new(&["image", project, fingerprint])
}

pub(crate) fn images_of(project: &str) -> Key {
    Key::new(&["image", project])
}

pub(crate) fn alias_key(project: &str, name: &str) -> Key {
    Key::new(&["alias", project, name])
}

pub(crate) fn aliases_of(project: &str) -> Key {
    Key::new(&["alias", project])
}
