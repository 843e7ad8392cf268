//! `berth-bench`: how fast instances start, and beside whom.
//!
//! Every benchmark brings its own daemon, takes turns with its peers run by run, so that a machine that grows slow meanwhile is
//! slow for all, and judges nothing: it prints medians, spread and ratios.

mod boot;
mod daemon;
mod launch;
mod many;
mod memory;
mod report;
mod run;
mod server;
mod stats;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "berth-bench", version, about = "Benchmarks of Berth; started by `cargo xtask bench`")]
enum Cli {
    /// Boot of a virtual machine
    Boot(boot::Options),
    /// Life of a container, from its creation to its deletion
    Launch(launch::Options),
    /// A server with many containers: making, listing, snapshots and copies, memory
    Many(many::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    run::end_in_order_on_interrupt();
    match benchmark(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn benchmark(cli: Cli) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("instances are made by root only; use sudo");
    }
    match cli {
        Cli::Boot(options) => boot::run(&options).await,
        Cli::Launch(options) => tokio::task::block_in_place(|| launch::run(&options)),
        Cli::Many(options) => tokio::task::block_in_place(|| many::run(&options)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
