//! The lab's kernel: Debian's, downloaded and unpacked, not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// An unpacked kernel package.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// As `uname -r` tells it.
    pub release: String,
    /// The directory that `/lib/modules` is in the package.
    pub modules: PathBuf,
    /// The bootable image.
    pub image: PathBuf,
}

/// Finds the unpacked kernel in `directory`, or downloads it.
pub fn prepare(directory: &Path) -> Result<Kernel> {
    if let Some(kernel) = find(directory) {
        return Ok(kernel);
    }
    let package = resolve()?;
    eprintln!("Downloading the lab's kernel: {package}");
    // Unpacked under another name first, so that a broken download is not taken for a kernel.
    let download = tempfile::tempdir_in(directory)?;
    let download = download.path();
    run(Command::new("apt-get").args(["download", "-qq", "-o", "APT::Sandbox::User=root"]).arg(&package), download)?;
    let deb = fs::read_dir(download)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get left no package file of {package}"))?;
    run(Command::new("dpkg-deb").arg("-x").arg(deb).arg("kernel"), download)?;
    let unpacked = download.join("kernel");
    let release = release(&unpacked).with_context(|| format!("{package} holds no modules"))?;
    run(Command::new("depmod").arg("-b").arg(&unpacked).arg(release), download)?;
    let target = directory.join("kernel");
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    fs::rename(&unpacked, &target)?;
    find(directory).context("the kernel package has no kernel image")
}

fn find(directory: &Path) -> Option<Kernel> {
    let unpacked = directory.join("kernel");
    let release = release(&unpacked)?;
    let image = unpacked.join("boot").join(format!("vmlinuz-{release}"));
    let modules = unpacked.join("lib/modules");
    image.exists().then_some(Kernel { release, modules, image })
}

fn release(unpacked: &Path) -> Option<String> {
    let entry = fs::read_dir(unpacked.join("lib/modules")).ok()?.next()?.ok()?;
    entry.file_name().into_string().ok()
}

/// The package on which the kernel's meta package depends.
fn resolve() -> Result<String> {
    if let Some(package) = dependency()? {
        return Ok(package);
    }
    eprintln!("Fetching package lists");
    run(Command::new("apt-get").args(["update", "-qq"]), Path::new("/"))?;
    dependency()?.context("the package sources of this machine have no linux-image-amd64; the lab needs Debian's")
}

fn dependency() -> Result<Option<String>> {
    let output = Command::new("apt-cache")
        .args(["depends", "--no-recommends", "--no-suggests", "linux-image-amd64"])
        .output()
        .context("cannot run apt-cache: the lab needs a Debian system")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let package = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(package.map(str::to_owned))
}

fn run(command: &mut Command, directory: &Path) -> Result<()> {
    let status = command.current_dir(directory).status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// The files of `wanted` and all modules that they need, in the order in which they are to be inserted. Modules built
/// into the kernel are left out.
pub fn load_order(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    let root = kernel.modules.join(&kernel.release);
    let table = fs::read_to_string(root.join("modules.dep"))?;
    let mut order: Vec<PathBuf> = Vec::new();
    for name in wanted {
        let Some((module, needs)) = table.lines().filter_map(|line| line.split_once(':')).find(|(module, _)| {
            Path::new(module)
                .file_stem()
                .is_some_and(|stem| stem.to_string_lossy().replace('_', "-") == name.replace('_', "-"))
        }) else {
            continue;
        };
        // What a module needs stands behind it, each before what it needs itself.
        for path in needs.split_whitespace().rev().chain([module]) {
            let path = root.join(path);
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}
