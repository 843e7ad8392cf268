//! A machine of Berth's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use berth_api::client::{Client, Endpoint, Method};
use berth_supervisor::{
    protocol::{BootTimes, CONTROL_SOCKET, Reply, Request, Status},
    record::Identity,
    transport::AsyncEndpoint,
};
use serde_json::json;

use super::{Boot, Options, PATIENCE, now};
use crate::daemon::Daemon;
use crate::memory;

const NAME: &str = "bench";
/// Lines of a console that an error shows.
const CONSOLE_TAIL: usize = 40;

/// A stopped machine, ready to boot.
pub struct Machine<'a> {
    daemon: &'a Daemon,
    client: Client,
    /// Bytes of the guest's memory.
    memory: u64,
}

impl<'a> Machine<'a> {
    /// Imports the image and creates the machine.
    pub fn create(daemon: &'a Daemon, options: &Options) -> Result<Self> {
        let file = |name: &str| {
            let path = options.image.join(name);
            path.to_str().map(str::to_owned).with_context(|| format!("{} has an odd name", path.display()))
        };
        eprintln!("Importing the image and making a disk of it");
        daemon.berth(&["image", "import", &file("metadata.tar")?, &file("rootfs.squashfs")?, "--alias", NAME])?;
        let cpus = format!("limits.cpu={}", options.cpus);
        let memory = format!("limits.memory={}MiB", options.memory);
        daemon.berth(&["init", NAME, NAME, "--vm", "--config", &cpus, "--config", &memory])?;
        let client = Client::unix(daemon.dir().join("unix.socket"));
        Ok(Self { daemon, client, memory: options.memory << 20 })
    }

    /// Boots for the first time; gives the kernel's arguments as the guest saw them.
    pub async fn first_boot(&self) -> Result<String> {
        self.change(json!({"action": "start", "wait": true})).await?;
        let line = self.daemon.berth(&["exec", NAME, "--", "cat", "/proc/cmdline"])?;
        // Peers get a copy of the disk. It is left like after each measured boot: not unmounted, but written out.
        self.daemon.berth(&["exec", NAME, "--", "sync"])?;
        self.change(json!({"action": "stop", "force": true})).await?;
        Ok(line.trim().to_owned())
    }

    /// Boots until the agent has greeted, and stops by force.
    pub async fn boot(&self) -> Result<Boot> {
        let boot = self.boot_once().await;
        let stopped = self.change(json!({"action": "stop", "force": true})).await;
        let boot = boot?;
        stopped.and(Ok(boot))
    }

    async fn boot_once(&self) -> Result<Boot> {
        let requested = now();
        self.change(json!({"action": "start", "wait": true})).await?;
        let status = self.status().await?;
        let times = status.times.context("berth-vmm tells no times")?;
        let BootTimes { began, user_space: Some(user_space), agent: Some(agent) } = times else {
            bail!("the guest's console did not show the mark of its first program; do its kernel's arguments hide it?");
        };
        let keeper = Identity::load(&self.run_dir()?)?.context("berth-vmm left no identity")?.pid;
        let memory = memory::beside_guest(status.pid, self.memory)? + memory::whole(keeper)?;
        Ok(Boot { requested, process: began, user_space, agent, memory })
    }

    /// The daemon.
    pub fn daemon(&self) -> &Daemon {
        self.daemon
    }

    /// Its disk.
    pub fn disk(&self) -> Result<PathBuf> {
        Ok(only_entry(&self.daemon.dir().join("storage-pools/default/virtual-machines"))?.join("root.img"))
    }

    async fn change(&self, change: serde_json::Value) -> Result<()> {
        let endpoint = Endpoint::new(&["instances", NAME, "state"]);
        let body = Client::json(&change)?;
        let mut unwatched = |_: &_| ();
        let request = self.client.run(Method::PUT, &endpoint, body, None, &mut unwatched);
        let done = tokio::time::timeout(PATIENCE, request).await;
        done.map_err(|_| anyhow::anyhow!("the machine took longer than {PATIENCE:?}"))
            .and_then(|done| Ok(done?))
            .with_context(|| format!("{change}; end of its console:\n{}", self.console()))?;
        Ok(())
    }

    async fn status(&self) -> Result<Status> {
        let endpoint = AsyncEndpoint::connect(&self.run_dir()?.join(CONTROL_SOCKET))?;
        endpoint.send(&Request::Status, &[]).await?;
        match endpoint.recv::<Reply>().await? {
            Some((Reply::Status(status), _)) => Ok(status),
            other => bail!("berth-vmm answered {other:?}"),
        }
    }

    /// There is but one machine.
    fn run_dir(&self) -> Result<PathBuf> {
        only_entry(&self.daemon.dir().join("run"))
    }

    fn console(&self) -> String {
        let read = || -> Result<String> {
            let log = only_entry(&self.daemon.dir().join("logs"))?.join("console.log");
            Ok(String::from_utf8_lossy(&std::fs::read(log)?).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_TAIL)..].join("\n")
    }
}

fn only_entry(dir: &Path) -> Result<PathBuf> {
    let entry = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?.next();
    Ok(entry.with_context(|| format!("{} is empty", dir.display()))??.path())
}
