//! Development tasks: `cargo xtask help`.

mod lab;
mod packages;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Development tasks of Berth.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run a command as root in a throw-away machine with real nested KVM and this machine's files.
    ///
    /// Every file of this machine is there at its own path; what the command writes vanishes with the machine.
    Lab(lab::Options),
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Lab(options) => std::process::exit(lab::run(&options)?),
    }
}

/// The root of the workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace").to_owned()
}
