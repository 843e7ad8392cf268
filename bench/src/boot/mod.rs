//! Boot of a virtual machine with an untouched Debian image, up to the agent.
//!
//! Peers get the same kernel, initial RAM disks, arguments and devices, and a copy of the same disk; so the difference is the
//! machine. Two marks count, and both are lines that the guest prints on its serial console whoever runs it: that of the
//! first program, and that of the agent. Berth's own agent must greet besides, which comes later than its line.

mod berth;
mod guest;
mod qemu;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    daemon::Daemon,
    report::{BERTH, Output, Report},
    run,
    stats::Unit,
};
use berth::Machine;
use guest::Guest;
use qemu::Qemu;

/// Longest boot; generous, for it may be one under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Number of runs
    #[arg(short = 'n', long = "runs", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Take turns with this peer
    #[arg(long, value_name = "PEER")]
    vs: Option<Peer>,
    /// CPUs of the machine
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    cpus: u8,
    /// Memory of the machine in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(128..))]
    memory: u64,
    /// Directory with the image's metadata.tar and rootfs.squashfs
    #[arg(long, value_name = "DIR")]
    image: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Peer {
    /// QEMU: its machine types q35 and microvm
    Qemu,
}

/// When one boot came how far, in nanoseconds of the monotonic clock, and what it took.
#[derive(Debug, Clone, Copy)]
struct Boot {
    requested: u64,
    process: u64,
    user_space: u64,
    agent: u64,
    /// Bytes beside the guest's own memory.
    memory: u64,
}

impl Boot {
    fn report(&self, subject: &str, report: &mut Report) {
        let mut interval = |measure, from: u64, to: u64| {
            report.add(measure, subject, Unit::Milliseconds, to.saturating_sub(from) as f64 / 1e6);
        };
        if self.requested != self.process {
            interval("request to process", self.requested, self.process);
        }
        interval("process to user space", self.process, self.user_space);
        interval("user space to agent", self.user_space, self.agent);
        interval("process to agent", self.process, self.agent);
        interval("request to agent", self.requested, self.agent);
        report.add("memory beside guest's", subject, Unit::Mebibytes, self.memory as f64 / f64::from(1 << 20));
    }
}

/// Runs the benchmark.
pub async fn run(options: &Options) -> Result<()> {
    let mut report = Report::new("boot");
    report.fact("runs", options.runs);
    report.fact("machine", format!("{} CPU, {} MiB, disk, net, rng, vsock", options.cpus, options.memory));
    let daemon = Daemon::start()?;
    let machine = Machine::create(&daemon, options)?;
    // The first boot fills caches, and makes what a Debian makes only once.
    let command_line = machine.first_boot().await.context("the first boot")?;
    let guest = options.vs.is_some().then(|| Guest::of(&machine, &command_line)).transpose()?;
    let mut peers = Vec::new();
    if let (Some(Peer::Qemu), Some(guest)) = (options.vs, &guest) {
        report.fact("qemu", qemu::version()?);
        peers = qemu::usable(guest, options)?;
    }
    let mut failures = 0;
    for number in 1..=options.runs {
        run::check_interrupt()?;
        let mut take = |subject: &str, boot: Result<Boot>| {
            let outcome = boot.as_ref().map(|boot| format!("{} ms", (boot.agent - boot.requested) / 1_000_000));
            let outcome = outcome.unwrap_or_else(|error| format!("failed: {error:#}"));
            eprintln!("run {number} of {}: {subject}: {outcome}", options.runs);
            match boot {
                Ok(boot) => boot.report(subject, &mut report),
                Err(_) => failures += 1,
            }
        };
        take(BERTH, machine.boot().await);
        for peer in &peers {
            run::check_interrupt()?;
            take(peer.name(), tokio::task::block_in_place(|| peer.boot()));
        }
    }
    if failures == options.runs as usize * (1 + peers.len()) {
        bail!("no machine came up; the messages above tell why");
    }
    report.fact("failed boots", failures);
    drop::<Vec<Qemu>>(peers);
    drop(machine);
    drop(daemon);
    report.finish(&options.output)
}

/// The clock that the VMM takes its times by.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
