//! `berth-container`: started by `berthd`, not by hand.

use std::path::PathBuf;
use std::process::ExitCode;

use berth_containers::spec::IdMap;
use berth_containers::{devices, exec, files, monitor, proxy};
use clap::{Parser, Subcommand};

/// Berth's container runtime. The daemon starts it; there is nothing in it for people.
#[derive(Parser)]
#[command(name = "berth-container", version)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Make a container and stay with it until its end; handshake on descriptor 3
    Monitor {
        /// The instance's run directory
        #[arg(long)]
        run_dir: PathBuf,
    },
    /// Serve one request for files of a container that does not run, on descriptor 3
    Files {
        /// The container's root directory
        #[arg(long)]
        rootfs: PathBuf,
        /// Its ids on the host
        #[arg(long, value_name = "BASE:SIZE")]
        idmap: IdMap,
    },
    /// Run a program in a container (used by the monitor)
    #[command(hide = true)]
    Exec,
    /// Change the devices of a container (used by the monitor)
    #[command(hide = true)]
    Devices,
    /// Pass connections on between host and container (used by the monitor)
    #[command(hide = true)]
    Proxy,
    /// Serve one request for files of a running container (used by the monitor)
    #[command(hide = true)]
    FilesJoin,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().mode {
        Mode::Monitor { run_dir } => monitor::main(&run_dir),
        Mode::Files { rootfs, idmap } => files::serve_stopped(&rootfs, idmap),
        Mode::Exec => exec::main(),
        Mode::Devices => devices::main(),
        Mode::Proxy => proxy::main(),
        Mode::FilesJoin => files::join(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("berth-container: {e}");
            ExitCode::FAILURE
        }
    }
}
