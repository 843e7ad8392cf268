//! `cargo xtask bench`: the benchmarks of `berth-bench`, where virtual machines can run.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use crate::{
    build, image,
    packages::{self, Purpose},
    probe::{self, Kvm},
};

/// Longest run in the lab.
const LAB_TIME: Duration = Duration::from_secs(3600);
const BENCH: &str = "berth-bench";

/// Which benchmark to run, and how.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Clone, Subcommand)]
enum Benchmark {
    /// Boot of a virtual machine: request, first user-space program, agent; memory of the VMM.
    Boot {
        #[command(flatten)]
        common: Common,
        /// CPUs of the machine.
        #[arg(long)]
        cpus: Option<u8>,
        /// Memory of the machine in MiB.
        #[arg(long, value_name = "MIB")]
        memory: Option<u64>,
    },
    /// Life of a container by `lxc`: create, start, exec, stop, delete.
    Launch {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        lxd: Lxd,
    },
    /// A server with many containers, by `lxc` and `lxd-benchmark`: making, listing, snapshots, copies, memory.
    Many {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        lxd: Lxd,
        /// Stopped containers.
        #[arg(long)]
        stopped: Option<u32>,
        /// Running containers.
        #[arg(long)]
        running: Option<u32>,
    },
}

#[derive(Debug, Clone, Args)]
struct Lxd {
    /// Directory of the running LXD's socket, if it is an unusual one.
    #[arg(long, value_name = "DIR")]
    lxd_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
struct Common {
    /// Number of runs.
    #[arg(short = 'n', long, default_value_t = 10)]
    runs: u32,
    /// Take turns with this peer: `qemu` for boot, `lxc` (a running LXD) for launch and many.
    #[arg(long, value_name = "PEER")]
    vs: Option<String>,
    /// Write all figures as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure a development build; its figures are good for nothing but the work on the benchmark.
    #[arg(long)]
    dev: bool,
}

/// Runs a benchmark.
pub fn run(options: &Options) -> Result<()> {
    packages::ensure(&[Purpose::Build, Purpose::Run])?;
    let (Benchmark::Boot { common, .. } | Benchmark::Launch { common, .. } | Benchmark::Many { common, .. }) =
        &options.benchmark;
    let programs = build::run(&build::Options { release: !common.dev })?;
    let mut words = Words(vec![programs.join(BENCH).display().to_string()]);
    let mut lab = false;
    match &options.benchmark {
        Benchmark::Boot { cpus, memory, .. } => {
            words.0.push("boot".to_owned());
            words.option("--image", Some(image::prepare(&programs)?.display()));
            words.option("--cpus", cpus.as_ref());
            words.option("--memory", memory.as_ref());
            lab = in_lab(&programs)?;
        }
        Benchmark::Launch { lxd, .. } => {
            words.0.push("launch".to_owned());
            words.option("--lxd-dir", lxd.lxd_dir.as_ref().map(|dir| dir.display()));
        }
        Benchmark::Many { lxd, stopped, running, .. } => {
            packages::ensure(&[Purpose::Test])?;
            words.0.push("many".to_owned());
            words.option("--lxd-dir", lxd.lxd_dir.as_ref().map(|dir| dir.display()));
            words.option("--stopped", stopped.as_ref());
            words.option("--running", running.as_ref());
        }
    }
    words.option("--runs", Some(common.runs));
    words.option("--vs", common.vs.as_ref());
    words.option("--json", common.json.as_ref().map(|_| "-"));
    execute(&words.0, lab, common.json.as_deref())
}

/// Words of a command.
struct Words(Vec<String>);

impl Words {
    fn option(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.0.extend([name.to_owned(), value.to_string()]);
        }
    }
}

/// Tells where machines run, and whether that is the lab.
fn in_lab(programs: &Path) -> Result<bool> {
    match probe::ask(programs)? {
        Kvm::Usable => {
            eprintln!("== direct: this machine's /dev/kvm runs guests");
            Ok(false)
        }
        Kvm::Unusable(reason) => {
            eprintln!("== in the lab, because this machine cannot run guests itself: {reason}");
            eprintln!("== its figures compare what ran there; they say nothing of real hardware");
            packages::ensure(&[Purpose::Lab])?;
            Ok(true)
        }
    }
}

/// Runs the program. What the lab's programs write to files vanishes with it, so JSON comes by standard output.
fn execute(words: &[String], lab: bool, json: Option<&Path>) -> Result<()> {
    let mut command = if lab {
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command.args(["lab", "--timeout", &LAB_TIME.as_secs().to_string(), "--"]).args(words);
        command
    } else {
        let (program, arguments) = words.split_first().context("a program to run")?;
        let mut command = Command::new(program);
        command.args(arguments);
        command
    };
    if let Some(path) = json {
        command.stdout(File::create(path).with_context(|| format!("cannot make {}", path.display()))?);
    }
    let status = command.status().with_context(|| format!("cannot run {}", words[0]))?;
    if !status.success() {
        bail!("the benchmark failed ({status}); its messages above tell why");
    }
    Ok(())
}
