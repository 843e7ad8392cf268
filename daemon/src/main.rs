//! `berthd`: the daemon of Berth.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, time::Duration};

use berth_daemon::{
    client,
    events::{Events, LogLayer},
    serve,
    stop::Extent,
    sys,
};
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Manages Linux machines, as system containers and as virtual machines.
#[derive(Parser)]
#[command(name = "berthd", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon in the foreground.
    Serve {
        #[command(flatten)]
        place: Place,
        /// Group that may use the socket besides root. Its members have the power of root.
        #[arg(long, value_name = "NAME")]
        group: Option<String>,
        /// Log more (RUST_LOG says exactly what).
        #[arg(long)]
        debug: bool,
    },
    /// Wait until the daemon is ready.
    Waitready {
        #[command(flatten)]
        place: Place,
        /// Give up after so many seconds.
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Stop the daemon. Instances go on running.
    Shutdown {
        #[command(flatten)]
        place: Place,
        /// Stop all instances too, in the order of boot.stop.priority; they come back when the daemon starts again.
        #[arg(long)]
        instances: bool,
        /// Give up after so many seconds (60; with --instances, wait as long as it takes).
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
}

#[derive(Args)]
struct Place {
    /// Directory for all data, and of the socket.
    #[arg(long, value_name = "DIR", env = "BERTH_DIR", default_value = "/var/lib/berth")]
    dir: PathBuf,
}

fn main() -> ExitCode {
    sys::limit_arenas();
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berthd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve { place, group, debug } => {
            let events = Events::default();
            start_log(debug, events.clone());
            // Two workers: the daemon waits far more than it computes, and each thread costs memory.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .thread_name("berthd")
                .build()?;
            let result = runtime.block_on(serve::run(serve::Options { dir: place.dir, group }, events));
            // What is still blocked in a thread must not hold up the end.
            runtime.shutdown_timeout(Duration::from_secs(2));
            result
        }
        Command::Waitready { place, timeout } => client::wait_ready(&place.dir, timeout.map(Duration::from_secs)),
        Command::Shutdown { place, instances, timeout } => {
            let (extent, usual) = if instances { (Extent::Host, None) } else { (Extent::Daemon, Some(60)) };
            client::shutdown(&place.dir, extent, timeout.or(usual).map(Duration::from_secs))
        }
    }
}

fn start_log(debug: bool, events: Events) {
    let default = if debug {
        "info,berth=debug,berth_daemon=debug,berth_instances=debug,berth_images=debug,berth_network=debug,berth_storage=debug,berth_store=debug"
    } else {
        "info"
    };
    let filter = || EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_filter(filter()))
        .with(LogLayer::new(events).with_filter(filter()))
        .init();
}
