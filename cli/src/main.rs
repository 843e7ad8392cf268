//! `berth`: the command line client.

mod cli;
mod commands;
mod complete;
mod editor;
mod object;
mod output;
mod pairs;
mod progress;
mod target;
mod terminal;

use std::{io::Write as _, process};

use clap::{CommandFactory as _, Parser as _};

use crate::{cli::Cli, target::Context};

fn main() {
    clap_complete::CompleteEnv::with_factory(Cli::command).complete();
    let cli = Cli::parse();
    terminal::install_panic_hook();
    let code = match execute(cli) {
        Ok(code) => code,
        Err(error) => report(&error),
    };
    terminal::restore();
    let _ = std::io::stdout().flush();
    // Not a return: a thread may still sit in a read of standard input.
    process::exit(code);
}

fn execute(cli: Cli) -> anyhow::Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let context = Context::new(&cli.globals);
    let result = runtime.block_on(cli.command.run(&context));
    runtime.shutdown_background();
    result
}

/// Prints an error and returns the exit status. A reader that went away (`berth list | head`) is no error.
fn report(error: &anyhow::Error) -> i32 {
    let closed = error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    });
    if !closed {
        terminal::restore();
        eprintln!("Error: {error:#}");
    }
    1
}
