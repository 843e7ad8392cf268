//! Development tasks: `cargo xtask help`.

mod build;
mod image;
mod lab;
mod licences;
mod packages;
mod test;

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
    /// Build all programs and put the static guest agent beside them.
    Build(build::Options),
    /// Run all checks, unit tests and end-to-end tests; tests of virtual machines run in the lab if need be.
    Test(test::Options),
    /// Check the licences of all dependencies.
    Licences,
    /// Run a command as root in a throw-away machine with real nested KVM and this machine's files.
    ///
    /// Every file of this machine is there at its own path; what the command writes vanishes with the machine.
    Lab(lab::Options),
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Build(options) => {
            let programs = build::run(&options)?;
            eprintln!("Built into {}", programs.display());
            Ok(())
        }
        Task::Test(options) => test::run(&options),
        Task::Licences => licences::check(),
        Task::Lab(options) => std::process::exit(lab::run(&options)?),
    }
}

/// The root of the workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace").to_owned()
}
