//! The virtual machine monitor's process.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "berth-vmm", version, about = "Runs one virtual machine; started by berthd")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the machine that is handed over on descriptor 3
    Run {
        /// Directory for the control socket and what else belongs to the running machine
        #[arg(long)]
        run_dir: PathBuf,
    },
    /// Tell as JSON whether virtual machines can run on this host; status 1 if not
    Probe,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match Arguments::parse().command {
        Command::Run { run_dir } => run(&run_dir),
        Command::Probe => probe(),
    }
}

fn probe() -> ExitCode {
    let report = berth_vmm::probe::probe();
    match serde_json::to_string_pretty(&report) {
        Ok(text) => println!("{text}"),
        Err(error) => {
            eprintln!("cannot print the finding: {error}");
            return ExitCode::FAILURE;
        }
    }
    if report.usable { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(run_dir: &Path) -> ExitCode {
    match berth_vmm::process::run(run_dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth-vmm: {error}");
            ExitCode::FAILURE
        }
    }
}
