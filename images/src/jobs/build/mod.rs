//! Building an image from Debian's packages.
//!
//! One run of `mmdebstrap`, which verifies every package against Debian's keys, gives both halves: its hook copies the
//! system before it adds kernel and initial RAM disk; what the second state has beyond the first is the layer.

mod diff;
mod hook;
mod sources;
mod system;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::mount::{MountFlags, MountPropagationFlags};
use serde_json::{Value, json};

pub use hook::hook;

use super::inspect::{LAYER, REMOVED};
use crate::confine::{self, sys};
use crate::metadata::{Metadata, Template, VM_CAPABLE};
use crate::unpack::tool;
use crate::wire::{self, Failure, JobResult};

/// What is to be built.
#[derive(Debug, clap::Args)]
pub struct Request {
    /// Distribution and version, e.g. `debian/12`.
    #[arg(long)]
    pub distribution: String,
    /// Further packages.
    #[arg(long = "package")]
    pub packages: Vec<String>,
    /// Mirror of the Debian archive.
    #[arg(long)]
    pub mirror: Option<String>,
    /// Directory to work in; afterwards it holds `metadata.tar` and `rootfs.squashfs`.
    #[arg(long)]
    pub work: PathBuf,
    /// Seconds since 1970 that count as the time of building.
    #[arg(long)]
    pub date: i64,
}

/// A release that can be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Name in a request.
    pub name: &'static str,
    /// Code name.
    pub suite: &'static str,
    /// Version.
    pub version: &'static str,
}

/// All releases that can be built.
pub const RELEASES: &[Release] = &[
    Release { name: "debian/12", suite: "bookworm", version: "12" },
    Release { name: "debian/13", suite: "trixie", version: "13" },
];

/// Packages of every image beyond `mmdebstrap`'s variant `minbase`.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "dbus",
    "iproute2",
    "iputils-ping",
    "libnss-myhostname",
    "login",
    "netbase",
    "passwd",
    "procps",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
];

/// Documentation and translations stay out of the image; packages installed in it later bring theirs.
const EXCLUDED: &[&str] = &[
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*",
];

/// The release with this name.
pub fn release(name: &str) -> JobResult<Release> {
    RELEASES.iter().find(|release| release.name == name).copied().ok_or_else(|| {
        let known: Vec<&str> = RELEASES.iter().map(|release| release.name).collect();
        Failure::invalid(format!("cannot build \"{name}\"; known are {}", known.join(", ")))
    })
}

/// Checks the name of a package, optionally with `=VERSION`.
pub fn usable_package(name: &str) -> bool {
    let (name, version) = name.split_once('=').unwrap_or((name, "0"));
    let part = |text: &str, extra: &[u8]| text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b));
    name.len() > 1
        && name.len() < 128
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && part(name, b"+.-")
        && !version.is_empty()
        && part(version, b"+.-~:")
}

fn architecture() -> JobResult<(&'static str, &'static str)> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(("amd64", "x86_64")),
        "aarch64" => Ok(("arm64", "aarch64")),
        other => Err(Failure::precondition(format!("images for {other} cannot be built yet"))),
    }
}

/// Builds the image.
pub fn run(request: &Request) -> JobResult<i32> {
    let release = release(&request.distribution)?;
    if let Some(bad) = request.packages.iter().find(|name| !usable_package(name)) {
        return Err(Failure::invalid(format!("\"{bad}\" is no name of a Debian package")));
    }
    let work = fs::canonicalize(&request.work).map_err(Failure::from_io("find the work directory"))?;
    let failed = Failure::from_io("start the build");
    // Should the build be killed, its mounts and processes go with it.
    let child =
        confine::spawn_with(|| shut_off(&work), || wire::finish(build(request, release, &work))).map_err(failed)?;
    child.wait().map_err(Failure::from_io("wait for the build"))
}

/// A mount namespace in which only the work directory can be written to: package scripts run as root, and a mistake
/// must not reach the host.
fn shut_off(work: &Path) -> io::Result<()> {
    sys::unshare(libc::CLONE_NEWNS)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    rustix::mount::mount_bind(work, work)?;
    sys::set_read_only("/", true)?;
    for writable in [Path::new("/dev"), Path::new("/proc"), Path::new("/sys")] {
        if writable.is_dir() {
            match sys::set_read_only(writable, false) {
                // Part of the root file system here, and that stays as it is.
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
                other => other?,
            }
        }
    }
    sys::set_read_only(work, false)?;
    rustix::mount::mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?;
    // The path leads into the new mount only when it is walked anew.
    std::env::set_current_dir(work)
}

fn build(request: &Request, release: Release, work: &Path) -> JobResult<Value> {
    let (debian, kernel) = architecture()?;
    let tree = work.join("tree");
    let base = work.join("base");
    let temporary = work.join("tmp");
    fs::create_dir(&temporary).map_err(Failure::from_io("create a scratch directory"))?;
    let sources = sources::find(release.suite, request.mirror.as_deref());
    bootstrap(request, release, debian, &sources, work)?;
    wire::progress("build", Some(70), "Cleaning up");
    for root in [&base, &tree] {
        system::clean(root, &sources).map_err(Failure::from_io("clean the new system"))?;
    }
    wire::progress("build", Some(75), "Comparing the two halves");
    let layer = work.join("layer");
    let removed = diff::split(&base, &tree, &layer).map_err(Failure::from_io("compare the two halves"))?;
    wire::progress("build", Some(80), "Compressing the root file system");
    squash(&base, &work.join("rootfs.squashfs"))?;
    wire::progress("build", Some(90), "Compressing kernel and modules");
    let compressed = work.join("layer.squashfs");
    squash(&layer, &compressed)?;
    let metadata = describe(request, release, debian, kernel);
    archive(&work.join("metadata.tar"), &metadata, &compressed, &removed, request.date)
        .map_err(Failure::from_io("write metadata.tar"))?;
    for left in [&tree, &base, &layer, &temporary] {
        fs::remove_dir_all(left).map_err(Failure::from_io("remove what was built"))?;
    }
    fs::remove_file(&compressed).map_err(Failure::from_io("remove what was built"))?;
    Ok(json!({}))
}

/// Variables of the environment that tell how the archive is reached.
const PROXIES: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

fn bootstrap(request: &Request, release: Release, debian: &str, sources: &[String], work: &Path) -> JobResult<()> {
    let helper = std::env::current_exe().map_err(Failure::from_io("find the helper"))?;
    let mut include: Vec<&str> = PACKAGES.to_vec();
    include.extend(request.packages.iter().map(String::as_str));
    let mut command = tool::command("mmdebstrap");
    for name in PROXIES {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("TMPDIR", work.join("tmp"))
        .env("HOME", work.join("tmp"))
        .env(hook::HELPER, helper)
        .env(hook::BASE, work.join("base"))
        .env(hook::KERNEL, format!("linux-image-cloud-{debian}"))
        .args(["--mode=root", "--format=directory", "--variant=minbase"])
        .arg(format!("--architectures={debian}"))
        .arg(format!("--keyring={}", sources::keyring()?))
        .arg(format!("--include={}", include.join(",")))
        .args(EXCLUDED.iter().map(|option| format!("--dpkgopt={option}")))
        .args(sources::proxies().iter().map(|option| format!("--aptopt={option}")))
        .arg(format!("--customize-hook=\"${}\" build-hook \"$1\"", hook::HELPER))
        .arg(release.suite)
        .arg(work.join("tree"))
        .args(sources)
        .stdin(Stdio::null());
    wire::progress("build", Some(0), format!("Building {}", release.name));
    let mut percent = 0;
    let (status, lines) = tool::run("mmdebstrap", command, &mut |line| {
        if let Some(text) = line.strip_prefix("I: ") {
            percent = milestone(text).unwrap_or(percent);
            wire::progress("build", Some(percent), text);
        }
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::precondition(format!(
        "mmdebstrap could not build {}; is a Debian mirror within reach? Its last words: {}",
        release.name,
        lines.join("; ")
    )))
}

/// How far the build is when `mmdebstrap` says this.
fn milestone(text: &str) -> Option<u8> {
    let marks = [
        ("running apt-get update", 5),
        ("downloading packages", 10),
        ("extracting archives", 20),
        ("installing essential", 25),
        ("installing remaining", 30),
        (hook::COPYING, 45),
        (hook::INSTALLING, 50),
        ("cleaning package lists", 65),
    ];
    marks.iter().find(|(words, _)| text.contains(words)).map(|(_, percent)| *percent)
}

fn squash(directory: &Path, file: &Path) -> JobResult<()> {
    let mut command = tool::command("mksquashfs");
    command.arg(directory).arg(file);
    command.args(["-comp", "zstd", "-Xcompression-level", "12", "-noappend", "-quiet", "-no-progress"]);
    tool::must("mksquashfs", command, Failure::internal)
}

fn describe(request: &Request, release: Release, debian: &str, kernel: &str) -> Metadata {
    let description = format!("Debian {} {} ({debian})", release.version, release.suite);
    let properties = [
        ("architecture", debian),
        ("description", &description),
        ("os", "Debian"),
        ("release", release.suite),
        ("variant", "default"),
        ("version", release.version),
        (VM_CAPABLE, "true"),
    ];
    let template = |name: &str| Template {
        when: vec!["create".to_owned(), "copy".to_owned()],
        template: name.to_owned(),
        ..Template::default()
    };
    Metadata {
        architecture: kernel.to_owned(),
        creation_date: request.date,
        expiry_date: 0,
        properties: properties.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        templates: [
            ("/etc/hostname".to_owned(), template("hostname.tpl")),
            ("/etc/hosts".to_owned(), template("hosts.tpl")),
        ]
        .into(),
    }
}

/// Not compressed: nearly all of it is the layer, which is.
fn archive(file: &Path, metadata: &Metadata, layer: &Path, removed: &[String], date: i64) -> io::Result<()> {
    let mut archive = tar::Builder::new(File::create(file)?);
    let mut add = |name: &str, kind: tar::EntryType, size: u64, content: &mut dyn io::Read| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_mtime(date.unsigned_abs());
        header.set_uid(0);
        header.set_gid(0);
        archive.append_data(&mut header, name, content)
    };
    let mut text = |name: &str, text: &str| {
        let bytes = text.as_bytes();
        add(name, tar::EntryType::Regular, bytes.len() as u64, &mut &bytes[..])
    };
    text("metadata.yaml", &serde_saphyr::to_string(metadata).map_err(io::Error::other)?)?;
    text("templates/hostname.tpl", system::HOSTNAME_TEMPLATE)?;
    text("templates/hosts.tpl", system::HOSTS_TEMPLATE)?;
    text(REMOVED, &serde_json::to_string(removed)?)?;
    let mut content = File::open(layer)?;
    let size = content.metadata()?.len();
    add(LAYER, tar::EntryType::Regular, size, &mut content)?;
    archive.into_inner()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_names_are_checked() {
        for good in ["vim-tiny", "g++", "libc6", "nginx=1.22.1-9+deb12u1", "python3.11"] {
            assert!(usable_package(good), "{good}");
        }
        for bad in ["", "a", "-x", "?essential", "./x.deb", "a b", "a,b", "~n", "nginx=", "a\nb", "Vim"] {
            assert!(!usable_package(bad), "{bad}");
        }
    }

    #[test]
    fn unknown_releases_are_named() {
        assert!(release("debian/1").expect_err("unknown").message.contains("debian/13"));
    }

    #[test]
    fn the_description_is_valid_metadata() {
        let request =
            Request { distribution: "debian/12".into(), packages: vec![], mirror: None, work: PathBuf::new(), date: 5 };
        let metadata = describe(&request, RELEASES[0], "amd64", "x86_64");
        let text = serde_saphyr::to_string(&metadata).expect("yaml");
        assert_eq!(crate::metadata::parse(&text).expect("metadata"), metadata);
    }
}
