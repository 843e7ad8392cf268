//! The life of a small container, by the real `lxc`: what a user waits for, command by command.

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    report::{Output, Report},
    run,
    server::{self, Server, Servers},
    stats::Unit,
};

/// Name of the container.
const NAME: &str = "berth-bench";

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Number of runs
    #[arg(short = 'n', long = "runs", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    #[command(flatten)]
    servers: server::Choice,
    #[command(flatten)]
    output: Output,
}

/// Runs the benchmark.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::new("launch");
    report.fact("runs", options.runs);
    report.fact("instance", "busybox container without network, directory pool, whole commands of lxc");
    let servers = Servers::prepare(&options.servers, &mut report)?;
    let measured = measure(&servers, options.runs, &mut report);
    for server in servers.all() {
        // There is none, unless a run failed.
        let _ = server.lxc(&["delete", "--force", NAME]).output();
    }
    drop(servers);
    measured?;
    report.finish(&options.output)
}

fn measure(servers: &Servers, runs: u32, report: &mut Report) -> Result<()> {
    for server in servers.all() {
        // The first one pays for caches of the server and of the machine.
        one_life(server, &mut |_, _| ()).with_context(|| format!("the first container of {}", server.label))?;
    }
    for number in 1..=runs {
        for server in servers.all() {
            run::check_interrupt()?;
            eprintln!("run {number} of {runs}: {}", server.label);
            one_life(server, &mut |measure, millis| report.add(measure, server.label, Unit::Milliseconds, millis))?;
        }
    }
    Ok(())
}

/// Takes the times of everything from creation to deletion, in milliseconds.
fn one_life(server: &Server, take: &mut dyn FnMut(&'static str, f64)) -> Result<()> {
    let mut timed = |measure: &'static str, arguments: &[&str]| -> Result<f64> {
        let (time, _) = run::timed(&mut server.lxc(arguments))?;
        let millis = time.as_secs_f64() * 1000.0;
        take(measure, millis);
        Ok(millis)
    };
    timed("client alone", &["query", "/1.0"])?;
    // Without profiles, so that what they hold on either server does not matter.
    let mut life = timed("create", &["init", Servers::IMAGE, NAME, "--no-profiles", "--storage", "default"])?;
    life += timed("start", &["start", NAME])?;
    timed("exec", &["exec", NAME, "--", "true"])?;
    life += timed("stop --force", &["stop", "--force", NAME])?;
    life += timed("delete", &["delete", NAME])?;
    take("all but exec", life);
    Ok(())
}
