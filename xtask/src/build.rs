//! Builds what is installed: all programs, with the guest's static agent beside them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    kernel,
    packages::{self, Purpose},
    workspace,
};

/// How to build.
#[derive(Debug, Clone, Default, Args)]
pub struct Options {
    /// Optimized, as it is installed; unoptimized without.
    #[arg(long)]
    pub release: bool,
}

/// Explicit, because without it the agent's flags would apply to build scripts too.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The agent runs in guests of which nothing is known: it brings its C library with it.
const AGENT_FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";
const AGENT: &str = "berth-agent";

/// Builds everything; gives the directory of the programs.
pub fn run(options: &Options) -> Result<PathBuf> {
    packages::ensure(&[Purpose::Build])?;
    let mut build = cargo();
    // A build of the agent as a member of the workspace would put a dynamic one in the place of the static one.
    build.args(["build", "--workspace", "--bins", "--exclude", AGENT]);
    if options.release {
        build.arg("--release");
    }
    execute(&mut build)?;
    let programs = target_directory()?.join(if options.release { "release" } else { "debug" });
    agent(&programs)?;
    kernel::place(&programs)?;
    Ok(programs)
}

/// Builds the static agent and puts it into `programs`.
pub fn agent(programs: &Path) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--package", AGENT, "--bin", AGENT, "--profile", "agent", "--target", TARGET]);
    execute(build.env("RUSTFLAGS", AGENT_FLAGS))?;
    let built = target_directory()?.join(TARGET).join("agent").join(AGENT);
    // Renamed into its place: a running daemon may be reading the old one.
    let target = programs.join(AGENT);
    let temporary = programs.join(format!(".{AGENT}.new"));
    fs::copy(&built, &temporary).with_context(|| format!("cannot copy {}", built.display()))?;
    fs::rename(&temporary, &target).with_context(|| format!("cannot put the agent at {}", target.display()))
}

/// The cargo that runs this task, in the workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

/// Runs a command with its output shown.
pub fn execute(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{} failed: {status}", describe(command));
    }
    Ok(())
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Where cargo puts its results.
pub fn target_directory() -> Result<PathBuf> {
    let metadata = metadata()?;
    let path = metadata["target_directory"].as_str().context("cargo metadata tells no target directory")?;
    Ok(path.into())
}

/// `cargo metadata` with all packages.
pub fn metadata() -> Result<serde_json::Value> {
    let output =
        cargo().args(["metadata", "--format-version", "1", "--locked"]).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
