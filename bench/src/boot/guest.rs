//! What Berth boots, for peers: the same kernel, initial RAM disks and arguments, and a copy of the disk.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use berth_agent::{cpio, initrd};
use serde::Deserialize;
use serde_json::Value;

use super::berth::Machine;
use crate::run;

/// Files for a peer; gone when dropped.
pub struct Guest {
    dir: tempfile::TempDir,
    /// The kernel, as an ELF file.
    pub kernel: PathBuf,
    /// The image's initial RAM disk and the archive with the agent, as one.
    pub initrd: PathBuf,
    /// Arguments of the kernel.
    pub command_line: String,
    /// The disk as Berth's machine left it.
    disk: PathBuf,
    /// The bridge that Berth's machine is on.
    pub bridge: String,
}

/// What the helper found on the disk.
#[derive(Debug, Deserialize)]
struct Found {
    key: String,
    initrd: bool,
    modules: Vec<String>,
}

impl Guest {
    /// What `machine` boots with. It must be stopped.
    pub fn of(machine: &Machine<'_>, command_line: &str) -> Result<Self> {
        let daemon = machine.daemon();
        let dir = tempfile::Builder::new().prefix("berth-bench").tempdir()?;
        let cache = daemon.dir().join("images/boot-cache");
        let disk = machine.disk()?;
        let found = look(&daemon.program("berth-image"), &cache, &disk)?;
        let place = cache.join(&found.key);
        let guest = Self {
            kernel: dir.path().join("kernel"),
            initrd: dir.path().join("initrd"),
            disk: dir.path().join("disk"),
            command_line: command_line.to_owned(),
            bridge: bridge(&daemon.get("/1.0/profiles/default")?)?,
            dir,
        };
        fs::copy(place.join("kernel"), &guest.kernel).context("cannot copy the kernel")?;
        let archive = archive(&daemon.program("berth-agent"), &place, &found)?;
        fs::write(&guest.initrd, archive)?;
        copy_disk(&disk, &guest.disk)?;
        Ok(guest)
    }

    /// A copy of the disk for one peer.
    pub fn disk_for(&self, peer: &str) -> Result<PathBuf> {
        let copy = self.dir.path().join(peer);
        copy_disk(&self.disk, &copy)?;
        Ok(copy)
    }
}

/// Has the helper read the disk, as the daemon does before each start.
fn look(helper: &Path, cache: &Path, disk: &Path) -> Result<Found> {
    let mut command = Command::new(helper);
    let output = command
        .args(["boot", "--cache"])
        .arg(cache)
        .stdin(File::open(disk).with_context(|| format!("cannot open {}", disk.display()))?)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", helper.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    let mut line: Value = serde_json::from_str(last).context("berth-image printed no JSON")?;
    match line.get_mut("done") {
        Some(done) => Ok(serde_json::from_value(done.take())?),
        None => bail!("berth-image cannot read {}: {last}", disk.display()),
    }
}

/// Both archives, as the kernel shall find them in memory.
fn archive(agent: &Path, place: &Path, found: &Found) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    if found.initrd {
        File::open(place.join("initrd"))?.read_to_end(&mut archive)?;
        archive.resize(archive.len().next_multiple_of(cpio::BLOCK), 0);
    }
    let modules: Vec<_> = found
        .modules
        .iter()
        .map(|name| Ok(initrd::Module { name: name.clone(), content: fs::read(place.join(name))? }))
        .collect::<Result<_>>()?;
    archive.write_all(&initrd::build(&fs::read(agent)?, &modules))?;
    Ok(archive)
}

fn copy_disk(from: &Path, to: &Path) -> Result<()> {
    run::output(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).args([from, to]))?;
    Ok(())
}

fn bridge(profile: &Value) -> Result<String> {
    let network = profile["devices"]["eth0"]["network"].as_str();
    network.map(str::to_owned).context("the default profile has no eth0 on a network of Berth's")
}
