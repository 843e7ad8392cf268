//! The agent of Berth's virtual machines.
//!
//! Started by the kernel as process 1 of an initrd it starts itself a second time as the agent and hands over to the
//! image's own `/init`. The agent waits until the real root is there and serves the host from it over vsock.

mod boot;
mod direct;
mod grow;
mod hostname;
mod identity;
mod init;
mod links;
mod log;
mod mounts;
mod ready;
mod service;
mod vsock;
mod welcome;

use std::process::ExitCode;

use log::Log;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return boot::run();
    }
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "--version"] => println!("berth-agent {}", env!("CARGO_PKG_VERSION")),
        [_, boot::AGENT_MODE, proc, log] => match (boot::inherited(proc), boot::inherited(log)) {
            (Some(proc), Some(log)) => return service::run(&proc, &Log::new(log)),
            _ => return usage(),
        },
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!(
        "berth-agent runs inside Berth's virtual machines, which start it from their initrd; it has no other use"
    );
    ExitCode::from(2)
}
