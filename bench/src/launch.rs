//! The life of a small container, by the real `lxc`: what a user waits for, command by command.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    daemon::Daemon,
    report::{BERTH, Output, Report},
    run,
    stats::Unit,
};

/// Name of the container, and alias of its image.
const NAME: &str = "berth-bench";
/// Where LXD's socket is, by the way it was installed.
const LXD_DIRS: &[&str] = &["/var/lib/lxd", "/var/snap/lxd/common/lxd"];

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Number of runs
    #[arg(short = 'n', long = "runs", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Take turns with this peer
    #[arg(long, value_name = "PEER")]
    vs: Option<Peer>,
    /// Directory of the running LXD's socket, if it is an unusual one
    #[arg(long, value_name = "DIR")]
    lxd_dir: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Peer {
    /// A running LXD
    Lxc,
}

/// Runs the benchmark.
pub fn run(options: &Options) -> Result<()> {
    if !run::on_path("lxc") {
        bail!("the benchmark drives both servers by the program lxc, which is not on PATH; install lxd-client");
    }
    let work = tempfile::tempdir()?;
    let image = berth_tests::busybox_image(work.path());
    let mut report = Report::new("launch");
    report.fact("runs", options.runs);
    report.fact("instance", "busybox container without network, directory pool, whole commands of lxc");
    let daemon = Daemon::start()?;
    let mut servers = vec![Server::new(BERTH, daemon.dir(), work.path())];
    if let Some(Peer::Lxc) = options.vs {
        let dir = options.lxd_dir.clone().map_or_else(find_lxd, Ok)?;
        servers.push(Server::new("lxd", &dir, work.path()));
    }
    for server in &servers {
        server.prepare(&image)?;
        report.fact(server.label, server.version()?);
        // The first one pays for caches of the server and of the machine.
        server.one_life(&mut |_, _| ()).with_context(|| format!("the first container of {}", server.label))?;
    }
    for number in 1..=options.runs {
        for server in &servers {
            run::check_interrupt()?;
            eprintln!("run {number} of {}: {}", options.runs, server.label);
            server.one_life(&mut |measure, millis| report.add(measure, server.label, Unit::Milliseconds, millis))?;
        }
    }
    drop(servers);
    drop(daemon);
    report.finish(&options.output)
}

fn find_lxd() -> Result<PathBuf> {
    let found = LXD_DIRS.iter().map(Path::new).find(|dir| dir.join("unix.socket").exists());
    found.map(Path::to_owned).context(
        "no LXD runs here: neither /var/lib/lxd nor its snap has a socket; start LXD, or name its directory by --lxd-dir",
    )
}

/// One of those compared. Dropped, it deletes what was made on it.
struct Server {
    label: &'static str,
    /// Where its socket is.
    dir: PathBuf,
    /// Configuration of the client, apart from the user's own.
    config: PathBuf,
}

impl Server {
    fn new(label: &'static str, dir: &Path, work: &Path) -> Self {
        Self { label, dir: dir.to_owned(), config: work.join(label) }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("lxc");
        command.args(arguments).env("LXD_DIR", &self.dir).env("LXD_CONF", &self.config);
        command
    }

    fn version(&self) -> Result<String> {
        if self.label == BERTH {
            // To its clients it says that it is an LXD.
            return Ok(env!("CARGO_PKG_VERSION").to_owned());
        }
        let text = run::output(&mut self.command(&["query", "/1.0"]))?;
        let server: serde_json::Value = serde_json::from_str(&text).context("lxc query /1.0 printed no JSON")?;
        Ok(server["environment"]["server_version"].as_str().unwrap_or_default().to_owned())
    }

    fn prepare(&self, image: &Path) -> Result<()> {
        std::fs::create_dir_all(&self.config)?;
        let image = image.to_str().context("the directory for temporary files has an odd name")?;
        run::output(&mut self.command(&["image", "import", image, "--alias", NAME]))
            .with_context(|| format!("{} (at {}) takes no image", self.label, self.dir.display()))?;
        Ok(())
    }

    /// Takes the times of everything from creation to deletion, in milliseconds.
    fn one_life(&self, take: &mut dyn FnMut(&'static str, f64)) -> Result<()> {
        let mut timed = |measure: &'static str, arguments: &[&str]| -> Result<f64> {
            let millis = run::timed(&mut self.command(arguments))?.as_secs_f64() * 1000.0;
            take(measure, millis);
            Ok(millis)
        };
        timed("client alone", &["query", "/1.0"])?;
        // Without profiles, so that what they hold on either server does not matter.
        let mut life = timed("create", &["init", NAME, NAME, "--no-profiles", "--storage", "default"])?;
        life += timed("start", &["start", NAME])?;
        timed("exec", &["exec", NAME, "--", "true"])?;
        life += timed("stop --force", &["stop", "--force", NAME])?;
        life += timed("delete", &["delete", NAME])?;
        take("all but exec", life);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // There is none, unless a run failed.
        let _ = self.command(&["delete", "--force", NAME]).output();
        let _ = self.command(&["image", "delete", NAME]).output();
    }
}
