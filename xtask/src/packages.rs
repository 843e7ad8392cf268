//! Debian packages that a task needs: checked first, installed only if missing.

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// What a task needs packages for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// Compiling the workspace.
    Build,
    /// Running containers and virtual machines, and the tests on this machine.
    Run,
    /// Clients of other people in the tests on this machine.
    Test,
    /// Booting the lab.
    Lab,
    /// Building the kernel for virtual machines.
    Kernel,
}

impl Purpose {
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Build => &["gcc", "libc6-dev", "make", "pkg-config"],
            Self::Run => &[
                "btrfs-progs",
                "busybox-static",
                "ca-certificates",
                "cpio",
                "dnsmasq-base",
                "e2fsprogs",
                "iproute2",
                "iputils-ping",
                "kmod",
                "lxd-client",
                "mmdebstrap",
                "nftables",
                "qemu-utils",
                "squashfs-tools",
                "xz-utils",
                "zstd",
            ],
            Self::Test => &["ansible", "curl", "lxd-tools", "openssl", "python3-venv"],
            Self::Lab => &["busybox-static", "e2fsprogs", "kmod", "qemu-system-x86"],
            Self::Kernel => &[
                "bc",
                "binutils",
                "bison",
                "flex",
                "gcc",
                "libelf-dev",
                "linux-source-6.1",
                "make",
                "perl",
                "xz-utils",
            ],
        }
    }
}

/// Installs what is missing for `purposes`, after telling what that is.
pub fn ensure(purposes: &[Purpose]) -> Result<()> {
    let wanted: BTreeSet<&str> = purposes.iter().flat_map(|purpose| purpose.packages()).copied().collect();
    let missing: Vec<&str> = wanted.into_iter().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("these Debian packages are missing: {}. Install them: sudo apt-get install {0}", missing.join(" "));
    }
    eprintln!("Installing missing Debian packages: {}", missing.join(" "));
    if apt_install(&missing).is_err() {
        eprintln!("Installation failed; trying again with fresh package lists");
        apt(&["update"])?;
        apt_install(&missing)?;
    }
    Ok(())
}

fn is_installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]).stderr(Stdio::null()).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("cannot run apt-get: this needs a Debian system")?;
    if !status.success() {
        bail!("apt-get {} failed ({status}); see its output above", arguments.join(" "));
    }
    Ok(())
}
