//! Development tasks: `cargo xtask help`.

mod bench;
mod build;
mod demo;
mod image;
mod kernel;
mod lab;
mod licences;
mod packages;
mod probe;
mod python;
mod test;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

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
    /// Show what Berth does: one image as container and as virtual machine, on a private directory.
    Demo(demo::Options),
    /// Build all programs and put the static guest agent beside them.
    Build(build::Options),
    /// Build the kernel for virtual machines whose image holds none, and put it beside the programs.
    Kernel(kernel::Options),
    /// Run all checks, unit tests and end-to-end tests; tests of virtual machines run in the lab if need be.
    Test(test::Options),
    /// Measure how fast instances start, beside a peer if one is named.
    Bench(bench::Options),
    /// Check the licences of all dependencies.
    Licences,
    /// Run a command as root in a throw-away machine with real nested KVM and this machine's files.
    ///
    /// Every file of this machine is there at its own path; what the command writes vanishes with the machine.
    Lab(lab::Options),
}

/// Status if a task itself failed; a command in the lab may end with any other.
const FAILED: u8 = 125;

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Demo(options) => demo::run(&options)?,
        Task::Build(options) => eprintln!("Built into {}", build::run(&options)?.display()),
        Task::Kernel(options) => kernel::run(&options)?,
        Task::Test(options) => test::run(&options)?,
        Task::Bench(options) => bench::run(&options)?,
        Task::Licences => licences::check()?,
        Task::Lab(options) => return Ok(ExitCode::from(u8::try_from(lab::run(&options)?).unwrap_or(FAILED))),
    }
    Ok(ExitCode::SUCCESS)
}

/// The root of the workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace").to_owned()
}
