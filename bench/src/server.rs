//! The servers that the real clients are pointed at: Berth's daemon, and a running LXD.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    daemon::Daemon,
    report::{BERTH, Report},
    run,
};

/// Where LXD's socket is, by the way it was installed.
const LXD_DIRS: &[&str] = &["/var/lib/lxd", "/var/snap/lxd/common/lxd"];

/// With whom Berth is compared.
#[derive(Debug, Args)]
pub struct Choice {
    /// Take turns with this peer
    #[arg(long, value_name = "PEER")]
    vs: Option<Peer>,
    /// Directory of the running LXD's socket, if it is an unusual one
    #[arg(long, value_name = "DIR")]
    lxd_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Peer {
    /// A running LXD
    Lxc,
}

/// Those compared, each with the busybox image under the alias [`IMAGE`](Self::IMAGE).
pub struct Servers {
    all: Vec<Server>,
    /// After the servers, for they clean up.
    _daemon: Daemon,
    _work: tempfile::TempDir,
}

impl Servers {
    /// Alias of the image.
    pub const IMAGE: &str = "berth-bench";

    /// Starts Berth's daemon, finds its peer, and notes what they are.
    pub fn prepare(choice: &Choice, report: &mut Report) -> Result<Self> {
        if !run::on_path("lxc") {
            bail!("the benchmark drives both servers by the program lxc, which is not on PATH; install lxd-client");
        }
        let work = tempfile::tempdir()?;
        let image = berth_tests::busybox_image(work.path());
        let daemon = Daemon::start()?;
        let mut all = vec![Server::new(BERTH, daemon.dir(), work.path())];
        if let Some(Peer::Lxc) = choice.vs {
            let dir = choice.lxd_dir.clone().map_or_else(find_lxd, Ok)?;
            all.push(Server::new("lxd", &dir, work.path()));
        }
        for server in &all {
            server.take_image(&image)?;
            report.fact(server.label, server.version()?);
        }
        Ok(Self { all, _daemon: daemon, _work: work })
    }

    /// Each of them, Berth's first.
    pub fn all(&self) -> &[Server] {
        &self.all
    }
}

fn find_lxd() -> Result<PathBuf> {
    let found = LXD_DIRS.iter().map(Path::new).find(|dir| dir.join("unix.socket").exists());
    found.map(Path::to_owned).context(
        "no LXD runs here: neither /var/lib/lxd nor its snap has a socket; start LXD, or name its directory by --lxd-dir",
    )
}

/// One of those compared. Dropped, it deletes the image.
pub struct Server {
    /// Its name in the report.
    pub label: &'static str,
    /// Where its socket is.
    dir: PathBuf,
    /// Configuration of the client, apart from the user's own.
    config: PathBuf,
}

impl Server {
    fn new(label: &'static str, dir: &Path, work: &Path) -> Self {
        Self { label, dir: dir.to_owned(), config: work.join(label) }
    }

    /// A client's command that goes to it.
    pub fn client(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).env("LXD_DIR", &self.dir).env("LXD_CONF", &self.config);
        command
    }

    /// A command of `lxc`.
    pub fn lxc(&self, arguments: &[&str]) -> Command {
        self.client("lxc", arguments)
    }

    /// Process that serves it.
    pub fn pid(&self) -> Result<u32> {
        let socket = self.dir.join("unix.socket");
        let stream = UnixStream::connect(&socket).with_context(|| format!("nobody answers on {}", socket.display()))?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).context("the socket does not tell whose it is")?;
        Ok(peer.pid.as_raw_nonzero().get().unsigned_abs())
    }

    fn version(&self) -> Result<String> {
        if self.label == BERTH {
            // To its clients it says that it is an LXD.
            return Ok(env!("CARGO_PKG_VERSION").to_owned());
        }
        let text = run::output(&mut self.lxc(&["query", "/1.0"]))?;
        let server: serde_json::Value = serde_json::from_str(&text).context("lxc query /1.0 printed no JSON")?;
        Ok(server["environment"]["server_version"].as_str().unwrap_or_default().to_owned())
    }

    fn take_image(&self, image: &Path) -> Result<()> {
        std::fs::create_dir_all(&self.config)?;
        let image = image.to_str().context("the directory for temporary files has an odd name")?;
        run::output(&mut self.lxc(&["image", "import", image, "--alias", Servers::IMAGE]))
            .with_context(|| format!("{} (at {}) takes no image", self.label, self.dir.display()))?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // There is none if it could not be taken.
        let _ = self.lxc(&["image", "delete", Servers::IMAGE]).output();
    }
}
