//! A server with many containers, by the real `lxc` and `lxd-benchmark`: making them, listing them, and what they cost.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    memory,
    report::{Output, Report},
    run,
    server::{self, Server, Servers},
    stats::Unit,
};

/// Names of what is made of a container, and away again.
const SNAPSHOT: &str = "berth-bench";
const COPY: &str = "berth-bench-copy";

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Number of runs of what can be done again
    #[arg(short = 'n', long = "runs", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Stopped containers
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    stopped: u32,
    /// Running containers
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    running: u32,
    /// Containers that `lxd-benchmark` makes at a time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    parallel: u32,
    #[command(flatten)]
    servers: server::Choice,
    #[command(flatten)]
    output: Output,
}

/// Runs the benchmark.
pub fn run(options: &Options) -> Result<()> {
    if !run::on_path("lxd-benchmark") {
        bail!("the benchmark makes containers by the program lxd-benchmark, which is not on PATH; install lxd-tools");
    }
    let mut report = Report::new("many");
    report.fact("runs", options.runs);
    report.fact("instances", format!("{} stopped, {} running, busybox", options.stopped, options.running));
    report.fact("lxd-benchmark", format!("{} containers at a time", options.parallel));
    let servers = Servers::prepare(&options.servers, &mut report)?;
    let measured = measure(&servers, options, &mut report);
    for server in servers.all() {
        // Gone already, unless a run failed.
        let _ = server.lxc(&["delete", "--force", COPY]).output();
        let deleted = benchmark(server, options, &["delete"], &mut report, "delete all");
        deleted.with_context(|| format!("containers of {} are left", server.label))?;
    }
    drop(servers);
    measured?;
    report.finish(&options.output)
}

fn measure(servers: &Servers, options: &Options, report: &mut Report) -> Result<()> {
    let (stopped, running) = (options.stopped.to_string(), options.running.to_string());
    for server in servers.all() {
        benchmark(server, options, &["init", "--count", &stopped, Servers::IMAGE], report, "make the stopped ones")?;
        benchmark(
            server,
            options,
            &["launch", "--count", &running, Servers::IMAGE],
            report,
            "launch the running ones",
        )?;
    }
    // The first of the stopped ones, as lxd-benchmark numbers them.
    let one = format!("benchmark-{:0width$}", 1, width = stopped.len());
    for number in 1..=options.runs {
        for server in servers.all() {
            run::check_interrupt()?;
            eprintln!("run {number} of {}: {}", options.runs, server.label);
            let mut timed = |measure, arguments: &[&str]| -> Result<()> {
                let (time, _) = run::timed(&mut server.lxc(arguments))?;
                report.add(measure, server.label, Unit::Milliseconds, time.as_secs_f64() * 1000.0);
                Ok(())
            };
            timed("client alone", &["query", "/1.0"])?;
            timed("list", &["list", "--format", "csv"])?;
            timed("list, names only", &["list", "--format", "csv", "--columns", "ns"])?;
            timed("snapshot", &["snapshot", &one, SNAPSHOT])?;
            timed("copy", &["copy", &format!("{one}/{SNAPSHOT}"), COPY])?;
            timed("delete the copy", &["delete", COPY])?;
            timed("restore", &["restore", &one, SNAPSHOT])?;
            timed("delete the snapshot", &["delete", &format!("{one}/{SNAPSHOT}")])?;
        }
    }
    for server in servers.all() {
        let bytes = memory::whole(server.pid()?)?;
        report.add("memory of the daemon", server.label, Unit::Mebibytes, bytes as f64 / f64::from(1 << 20));
    }
    Ok(())
}

/// One command of `lxd-benchmark`. It tells of containers that fail, and succeeds.
fn benchmark(
    server: &Server,
    options: &Options,
    words: &[&str],
    report: &mut Report,
    measure: &'static str,
) -> Result<()> {
    run::check_interrupt()?;
    eprintln!("{measure}: {}", server.label);
    let mut command = server.client("lxd-benchmark", words);
    command.args(["--parallel", &options.parallel.to_string()]);
    let (time, said) = run::timed(&mut command)?;
    if let Some(line) = said.lines().find(|line| line.contains("Failed")) {
        bail!("lxd-benchmark {} failed on {}: {line}", words.join(" "), server.label);
    }
    report.add(measure, server.label, Unit::Milliseconds, time.as_secs_f64() * 1000.0);
    Ok(())
}
