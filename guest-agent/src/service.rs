//! The agent itself: waits for the real root and serves the host from there.

use std::{
    io,
    os::fd::OwnedFd,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use berth_agent::server;
use berth_guest::protocol::{AGENT_MARK, AGENT_PORT};
use rustix::fs::{CWD, Mode, OFlags};

use crate::{grow, hostname, log::Log, mounts, ready, vsock};

/// Connections served at once; each has a thread.
const MAX_CONNECTIONS: usize = 256;
const STACK: usize = 512 * 1024;
/// Pause after a failure that may pass.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs for the life of the guest.
pub fn run(proc: &OwnedFd, log: &Log) -> ExitCode {
    // No key of the console reaches the agent.
    let _ = rustix::process::setsid();
    if let Err(e) = mounts::enter_real_root(proc) {
        log.line(format_args!("cannot enter the real root, so that this guest has no agent: {e}"));
        return ExitCode::FAILURE;
    }
    quiet();
    if let Err(e) = hostname::apply(proc, log) {
        log.line(format_args!("the host name is not as the host gave it: {e}"));
    }
    let listener = listen(log);
    log.mark(AGENT_MARK);
    if let Err(e) = thread::Builder::new().stack_size(STACK).spawn(|| ready::keep()) {
        log.line(format_args!("cannot tell the host that the guest is up: {e}"));
    }
    follow_disk(proc, log);
    accept(&listener, log)
}

/// Has the root file system grow with its disk, in a thread of its own.
fn follow_disk(proc: &OwnedFd, log: &Log) {
    let begun = proc.try_clone().and_then(|proc| {
        let log = log.try_clone()?;
        thread::Builder::new().stack_size(STACK).spawn(move || grow::follow(&proc, &log))
    });
    if let Err(e) = begun {
        log.line(format_args!("the root file system will not grow with its disk: {e}"));
    }
}

/// Lets go of the initrd's console.
fn quiet() {
    let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    if let Ok(null) = null {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

fn listen(log: &Log) -> OwnedFd {
    let mut told = false;
    loop {
        match vsock::listen(AGENT_PORT) {
            Ok(listener) => return listener,
            Err(e) => {
                if !told {
                    told = true;
                    log.line(format_args!("cannot listen on vsock port {AGENT_PORT}, will go on trying: {e}"));
                    vsock::load_transport();
                } else {
                    thread::sleep(PAUSE);
                }
            }
        }
    }
}

fn accept(listener: &OwnedFd, log: &Log) -> ! {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let (socket, peer) = match vsock::accept(listener) {
            Ok(accepted) => accepted,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                log.line(format_args!("cannot accept a connection: {e}"));
                thread::sleep(PAUSE);
                continue;
            }
        };
        // Any user of the guest can connect to a local port, but only the host may ask the agent for anything.
        if peer != vsock::HOST {
            log.line(format_args!("refused a connection from context {peer}, which is not the host"));
            continue;
        }
        let slot = Slot::take(&connections);
        if slot.0.load(Ordering::Relaxed) > MAX_CONNECTIONS {
            log.line(format_args!("refused a connection: {MAX_CONNECTIONS} are being served"));
            continue;
        }
        let served = thread::Builder::new().stack_size(STACK).spawn(move || {
            let _slot = slot;
            // A lost connection is the host's affair, and it knows.
            let _ = server::serve(socket);
        });
        if let Err(e) = served {
            log.line(format_args!("cannot serve a connection: {e}"));
        }
    }
}

/// One of the connections being served.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counter))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
