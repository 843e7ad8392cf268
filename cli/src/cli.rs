//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{commands::*, target::Context};

/// Containers and virtual machines.
#[derive(Debug, Parser)]
#[command(
    name = "berth",
    version,
    about = "Run system containers and virtual machines",
    after_help = "Shell completion: add `source <(COMPLETE=bash berth)` to ~/.bashrc (or use zsh, fish, elvish).",
    propagate_version = false,
    infer_subcommands = false,
    max_term_width = 100
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Globals {
    /// Project to work in
    #[arg(long, global = true, env = "BERTH_PROJECT", value_name = "PROJECT", help_heading = "Global options",
        add = crate::complete::projects())]
    pub project: Option<String>,
    /// Data directory of the daemon, where its socket is
    #[arg(long, global = true, env = "BERTH_DIR", value_name = "DIR", help_heading = "Global options")]
    pub dir: Option<PathBuf>,
    /// Show no progress
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Accepted for LXD's scripts; does nothing
    #[arg(short, long, global = true, hide = true)]
    pub verbose: bool,
    /// Accepted for LXD's scripts; does nothing
    #[arg(long, global = true, hide = true)]
    pub debug: bool,
    /// Accepted for LXD's scripts; Berth is always local
    #[arg(long, global = true, hide = true)]
    pub force_local: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create and start an instance from an image
    Launch(launch::Launch),
    /// Create an instance from an image
    #[command(visible_alias = "create")]
    Init(launch::Init),
    /// Start instances
    Start(power::Start),
    /// Stop instances
    Stop(power::Stop),
    /// Restart instances
    Restart(power::Restart),
    /// Freeze instances
    #[command(alias = "freeze")]
    Pause(power::Pause),
    /// Delete instances
    #[command(alias = "rm")]
    Delete(delete::Delete),
    /// Rename an instance or a snapshot
    Rename(delete::Rename),
    /// Copy an instance or a snapshot
    #[command(alias = "cp")]
    Copy(copy::Copy),
    /// Move an instance to another name, pool or project
    #[command(alias = "mv")]
    Move(copy::Move),
    /// Take a snapshot of an instance
    Snapshot(snapshot::Snapshot),
    /// Make an instance what it was at a snapshot
    Restore(snapshot::Restore),
    /// Make an instance anew of an image
    Rebuild(rebuild::Rebuild),
    /// Write an instance with its snapshots to a file
    Export(backup::Export),
    /// Make an instance of a file that was exported
    Import(backup::Import),
    /// List instances
    #[command(visible_alias = "ls")]
    List(list::List),
    /// Show an instance, or the server
    Info(info::Info),
    /// Run a command in an instance
    Exec(exec::Exec),
    /// Attach to the console of an instance
    Console(console::Console),
    /// Work with files of instances
    #[command(subcommand)]
    File(file::File),
    /// Configure instances and the server
    #[command(subcommand)]
    Config(config::Config),
    /// Work with profiles
    #[command(subcommand)]
    Profile(profile::Profile),
    /// Work with images
    #[command(subcommand)]
    Image(image::Image),
    /// Make an image of an instance or a snapshot
    Publish(publish::Publish),
    /// Work with networks
    #[command(subcommand)]
    Network(network::Network),
    /// Work with storage pools
    #[command(subcommand)]
    Storage(storage::Storage),
    /// Work with projects
    #[command(subcommand)]
    Project(project::Project),
    /// Work with background operations
    #[command(subcommand)]
    Operation(operation::Operation),
    /// Work with warnings
    #[command(subcommand)]
    Warning(warning::Warning),
    /// Watch what the daemon does
    Monitor(monitor::Monitor),
    /// Send a raw request
    Query(query::Query),
    /// Show the versions of client and server
    Version(query::Version),
}

impl Command {
    /// Runs the command and returns the exit status.
    pub async fn run(self, context: &Context) -> anyhow::Result<i32> {
        match self {
            Self::Exec(command) => return command.run(context).await,
            Self::Launch(command) => command.run(context).await,
            Self::Init(command) => command.run(context).await.map(|_| ()),
            Self::Start(command) => command.run(context).await,
            Self::Stop(command) => command.run(context).await,
            Self::Restart(command) => command.run(context).await,
            Self::Pause(command) => command.run(context).await,
            Self::Delete(command) => command.run(context).await,
            Self::Rename(command) => command.run(context).await,
            Self::Copy(command) => command.run(context).await,
            Self::Move(command) => command.run(context).await,
            Self::Snapshot(command) => command.run(context).await,
            Self::Restore(command) => command.run(context).await,
            Self::Rebuild(command) => command.run(context).await,
            Self::Export(command) => command.run(context).await,
            Self::Import(command) => command.run(context).await,
            Self::List(command) => command.run(context).await,
            Self::Info(command) => command.run(context).await,
            Self::Console(command) => command.run(context).await,
            Self::File(command) => command.run(context).await,
            Self::Config(command) => command.run(context).await,
            Self::Profile(command) => command.run(context).await,
            Self::Image(command) => command.run(context).await,
            Self::Publish(command) => command.run(context).await,
            Self::Network(command) => command.run(context).await,
            Self::Storage(command) => command.run(context).await,
            Self::Project(command) => command.run(context).await,
            Self::Operation(command) => command.run(context).await,
            Self::Warning(command) => command.run(context).await,
            Self::Monitor(command) => command.run(context).await,
            Self::Query(command) => command.run(context).await,
            Self::Version(command) => command.run(context).await,
        }
        .map(|()| 0)
    }
}
