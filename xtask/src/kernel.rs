//! `cargo xtask kernel`: builds the kernel of virtual machines whose image holds none.
//!
//! Source, configuration, compiler and what else ends up in the file are named, so that the same of each gives the
//! same file, byte by byte.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use sha2::{Digest, Sha256};

use crate::{
    build::{self, execute},
    packages::{self, Purpose},
    workspace,
};

/// Debian's package of the source, and the version with which the configuration was last tried. A newer one, as
/// security updates bring, is taken with a notice.
const PACKAGE: (&str, &str) = ("linux-source-6.1", "6.1.192-2");
/// What the package installs.
const ARCHIVE: &str = "/usr/src/linux-source-6.1.tar.xz";
/// Over `make allnoconfig`.
const FRAGMENT: &str = "images/kernel/x86_64.config";
/// What would be different in each build.
const FIXED: &[(&str, &str)] = &[
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01 00:00:00 UTC"),
    ("KBUILD_BUILD_USER", "berth"),
    ("KBUILD_BUILD_HOST", "berth"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("LC_ALL", "C"),
];
/// Name of the kernel beside the programs.
const VMLINUX: &str = "vmlinux";
/// Directory beside it with the modules another kernel needs; Berth's own has none.
const MODULES: &str = "vmlinux.d";
/// Tells of what the kernel was made.
const ORIGIN: &str = "origin";

/// How to build.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Work the configuration out and check it; build nothing.
    #[arg(long)]
    pub check: bool,
}

/// Builds the kernel, unless what was built last is of the same origin, and puts it beside the programs built so far.
pub fn run(options: &Options) -> Result<()> {
    if options.check {
        packages::ensure(&[Purpose::Kernel])?;
        let work = unpack()?;
        configure(work.path())?;
        eprintln!("{FRAGMENT} is what the kernel's own rules make of it");
        return Ok(());
    }
    let kernel = prepare()?;
    for profile in ["debug", "release"] {
        let programs = build::target_directory()?.join(profile);
        if programs.is_dir() {
            place(&programs)?;
        }
    }
    eprintln!("Built {}", kernel.display());
    Ok(())
}

/// The kernel; built if it is missing or of another origin.
pub fn prepare() -> Result<PathBuf> {
    packages::ensure(&[Purpose::Build, Purpose::Kernel])?;
    let directory = directory()?;
    let (kernel, origin) = (directory.join(VMLINUX), origin()?);
    if kernel.exists() && fs::read_to_string(directory.join(ORIGIN)).is_ok_and(|text| text == origin) {
        return Ok(kernel);
    }
    eprintln!("Building the kernel for virtual machines whose image holds none; this happens once and takes minutes");
    let work = unpack()?;
    configure(work.path())?;
    make(work.path(), &["vmlinux"])?;
    let stripped = work.path().join("stripped");
    execute(Command::new("strip").arg("--strip-all").arg("-o").arg(&stripped).arg(work.path().join(VMLINUX)))?;
    let keep = |from: &Path, name: &str| {
        fs::rename(from, directory.join(name)).with_context(|| format!("cannot keep {name} of the kernel"))
    };
    keep(&work.path().join(".config"), "config")?;
    keep(&stripped, VMLINUX)?;
    fs::write(directory.join(ORIGIN), origin)?;
    Ok(kernel)
}

/// Puts the kernel beside `programs` if it was built.
pub fn place(programs: &Path) -> Result<()> {
    let kernel = directory()?.join(VMLINUX);
    if !kernel.exists() {
        return Ok(());
    }
    copy(&kernel, programs)?;
    let modules = programs.join(MODULES);
    if modules.exists() {
        fs::remove_dir_all(&modules).context("cannot remove the modules of another kernel")?;
    }
    Ok(())
}

/// Renamed into its place: a running daemon may be reading the old one.
fn copy(kernel: &Path, programs: &Path) -> Result<()> {
    let temporary = programs.join(format!(".{VMLINUX}.new"));
    fs::copy(kernel, &temporary).with_context(|| format!("cannot copy {}", kernel.display()))?;
    fs::rename(&temporary, programs.join(VMLINUX)).context("cannot put the kernel beside the programs")
}

fn directory() -> Result<PathBuf> {
    let directory = build::target_directory()?.join("kernel");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// What decides the kernel's content.
fn origin() -> Result<String> {
    let output = |command: &mut Command| -> Result<String> {
        let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    };
    let (package, tried) = PACKAGE;
    let version = output(Command::new("dpkg-query").args(["-W", "-f=${Version}", package]))?;
    if version != tried {
        eprintln!("{package} is of version {version}; the configuration was last tried with {tried}");
    }
    let compiler = output(Command::new("gcc").arg("--version"))?;
    let mut hash = Sha256::new();
    hash.update(fs::read(workspace().join(FRAGMENT)).with_context(|| format!("cannot read {FRAGMENT}"))?);
    hash.update(format!("{FIXED:?}"));
    Ok(format!("{package} {version}\n{compiler}\nconfiguration {}\n", hex::encode(hash.finalize())))
}

/// The source in a directory of its own, which goes away with the result.
fn unpack() -> Result<tempfile::TempDir> {
    let work = tempfile::Builder::new().prefix("build-").tempdir_in(directory()?)?;
    execute(Command::new("tar").args(["-x", "--strip-components=1", "-f", ARCHIVE, "-C"]).arg(work.path()))?;
    Ok(work)
}

/// Makes `.config` and checks that it has every line of the fragment.
fn configure(source: &Path) -> Result<()> {
    let path = workspace().join(FRAGMENT);
    make(source, &[&format!("KCONFIG_ALLCONFIG={}", path.display()), "allnoconfig"])?;
    let fragment = fs::read_to_string(&path).with_context(|| format!("cannot read {FRAGMENT}"))?;
    let config = fs::read_to_string(source.join(".config")).context("the kernel's build made no .config")?;
    let lost = lost(&fragment, &config);
    if !lost.is_empty() {
        bail!("the kernel's own rules do not let these lines of {FRAGMENT} stand:\n{}", lost.join("\n"));
    }
    Ok(())
}

fn make(source: &Path, arguments: &[&str]) -> Result<()> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut make = Command::new("nice");
    make.args(["make", "--quiet", "ARCH=x86_64", &format!("-j{jobs}")]).args(arguments).current_dir(source);
    // Variables of a make or compiler of the caller would change the result.
    for variable in ["MAKEFLAGS", "MFLAGS", "CC", "CFLAGS", "KCFLAGS", "LDFLAGS", "CROSS_COMPILE", "O", "KBUILD_OUTPUT"]
    {
        make.env_remove(variable);
    }
    execute(make.envs(FIXED.iter().copied()))
}

/// The settings of a fragment: each symbol with its value, or without one if it is off.
fn settings(fragment: &str) -> Vec<(&str, Option<&str>)> {
    let lines = fragment.lines().filter_map(|line| match line.strip_prefix("# ") {
        Some(off) => Some((off.strip_suffix(" is not set")?, None)),
        None => line.split_once('=').map(|(symbol, value)| (symbol, Some(value))),
    });
    lines.filter(|(symbol, _)| symbol.starts_with("CONFIG_")).collect()
}

/// Settings of `fragment` that `config` does not have.
fn lost(fragment: &str, config: &str) -> Vec<String> {
    let made = settings(config);
    let value = |symbol: &str| made.iter().find(|(other, _)| *other == symbol).and_then(|(_, value)| *value);
    let wanted = settings(fragment).into_iter();
    let lost = wanted.filter(|(symbol, wanted)| value(symbol) != *wanted);
    lost.map(|(symbol, wanted)| {
        format!("  {symbol}: {} became {}", wanted.unwrap_or("off"), value(symbol).unwrap_or("off"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_setting_that_does_not_stand_is_found() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_N=\"x y\"\n";
        assert!(lost("# a comment\nCONFIG_A=y\n# CONFIG_B is not set\n# CONFIG_D is not set\n", config).is_empty());
        assert!(lost("CONFIG_N=\"x y\"\n", config).is_empty());
        let lost = lost("CONFIG_B=y\nCONFIG_C=y\n# CONFIG_A is not set\nCONFIG_E=y\n", config);
        let expected =
            ["CONFIG_B: y became off", "CONFIG_C: y became m", "CONFIG_A: off became y", "CONFIG_E: y became off"];
        assert_eq!(lost.iter().map(|line| line.trim()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_fragment_says_everything_once_and_has_what_machines_need() {
        let fragment = fs::read_to_string(workspace().join(FRAGMENT)).unwrap();
        let settings = settings(&fragment);
        let symbols: BTreeSet<&str> = settings.iter().map(|(symbol, _)| *symbol).collect();
        assert_eq!(symbols.len(), settings.len(), "a symbol is set twice");
        for needed in ["PVH", "VIRTIO_PCI", "VIRTIO_BLK", "VIRTIO_NET", "VIRTIO_VSOCKETS", "EXT4_FS", "BLK_DEV_INITRD"]
        {
            assert!(settings.contains(&(&format!("CONFIG_{needed}"), Some("y"))), "{needed}");
        }
        // The image has no modules that would fit.
        assert!(settings.contains(&("CONFIG_MODULES", None)));
        assert!(settings.iter().all(|(_, value)| *value != Some("m")));
    }
}
