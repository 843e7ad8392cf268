//! The process that the daemon started. It makes the other one, which holds the guest, and outlives it: to tell why it
//! ended, whatever that was, and to remove what it left. It never touches anything of the guest.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_supervisor::handshake::Progress;
use berth_supervisor::protocol::{Exit, ExitReason};
use berth_supervisor::record;
use berth_supervisor::transport::Endpoint;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};

use super::sys::Termination;

/// What the process of the guest tells.
#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    /// It is confined; the answer is its process id.
    Confined,
    /// The guest runs.
    Running,
    /// The machine is at its end.
    Ended(Exit),
}

/// How the machine ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ran.
    Ran(Exit),
    /// It never ran; whoever wanted it knows.
    Failed,
}

/// Watches the process of the guest.
pub struct Keeper {
    pid: Pid,
    pidfd: OwnedFd,
    told: Endpoint,
    /// The handshake's end, until the machine runs.
    daemon: Option<Endpoint>,
    exit: Option<Exit>,
}

impl Keeper {
    /// Takes over the child `pid`, which speaks at the other end of `told`.
    pub fn new(pid: Pid, told: Endpoint, daemon: Endpoint) -> io::Result<Self> {
        told.set_nonblocking(true)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { pid, pidfd, told, daemon: Some(daemon), exit: None })
    }

    /// Waits for its end; passes signals on until then.
    pub fn wait(mut self, termination: &Termination) -> io::Result<Outcome> {
        let mut listening = true;
        loop {
            let (ended, signal) = {
                let mut watched = [
                    PollFd::new(&self.pidfd, PollFlags::IN),
                    PollFd::new(termination, PollFlags::IN),
                    PollFd::new(&self.told, PollFlags::IN),
                ];
                // One that is closed would be ready for ever.
                let count = if listening { 3 } else { 2 };
                match poll(&mut watched[..count], None) {
                    Err(rustix::io::Errno::INTR) => continue,
                    other => other?,
                };
                (!watched[0].revents().is_empty(), !watched[1].revents().is_empty())
            };
            listening &= self.hear();
            if ended {
                return self.reap();
            }
            if signal {
                termination.take();
                // One that ends just now needs none.
                let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
            }
        }
    }

    /// Takes what was told; false if there will be nothing more.
    fn hear(&mut self) -> bool {
        loop {
            match self.told.recv::<Told>() {
                Ok(Some((Told::Confined, _))) => {
                    // A child that is gone is seen to be.
                    let _ = self.told.send(&self.pid.as_raw_nonzero().get(), &[]);
                }
                Ok(Some((Told::Running, _))) => self.daemon = None,
                Ok(Some((Told::Ended(exit), _))) => self.exit = Some(exit),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Ok(None) | Err(_) => return false,
            }
        }
    }

    fn reap(mut self) -> io::Result<Outcome> {
        let status = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        let told = self.exit.take();
        Ok(match (self.daemon, told) {
            (None, Some(exit)) => Outcome::Ran(exit),
            (None, None) => Outcome::Ran(reason(status.as_ref())),
            (Some(daemon), _) => {
                // One that ended by itself has told the daemon.
                if let Some(end) = status.as_ref().filter(|status| status.terminating_signal().is_some()) {
                    let message = reason(Some(end)).message;
                    let _ = daemon.send(&Progress::Failed { message }, &[]);
                }
                Outcome::Failed
            }
        })
    }
}

/// Why a process that said nothing ended.
fn reason(status: Option<&WaitIdStatus>) -> Exit {
    let signal = status.and_then(WaitIdStatus::terminating_signal);
    let message = match signal {
        Some(libc::SIGSYS) => "the VMM made a system call that it may not, as a guest that has taken it over would have it do, \
                               and was stopped; the host's kernel log names the call (audit: type=1326). Start the instance \
                               again; if it ends so without a reason to mistrust the guest, report that"
            .to_owned(),
        Some(libc::SIGKILL) => "the VMM was killed, perhaps because memory ran out; see the host's kernel log".to_owned(),
        Some(signal) => format!("the VMM was ended by signal {signal}; supervisor.log may tell more"),
        None => {
            let code = status.and_then(WaitIdStatus::exit_status).unwrap_or_default();
            format!("the VMM ended with status {code}; supervisor.log tells why")
        }
    };
    Exit { reason: ExitReason::Error, message }
}

/// Keeps the reason of the end for the daemon; the current directory is the run directory.
pub fn record(exit: &Exit) -> io::Result<()> {
    record::save_exit(Path::new("."), exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What is made of a child that runs `script`, having told the keeper of `tells`.
    fn outcome(script: &str, tells: &[Told]) -> (Outcome, Option<Progress>) {
        let ((told, keeper), (theirs, ours)) = (Endpoint::pair().unwrap(), Endpoint::pair().unwrap());
        tells.iter().for_each(|piece| keeper.send(piece, &[]).unwrap());
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32).unwrap();
        let outcome = Keeper::new(pid, told, theirs).unwrap().wait(&Termination::new().unwrap()).unwrap();
        assert!(child.wait().is_err(), "nothing is left of it");
        ours.set_nonblocking(true).unwrap();
        (outcome, ours.recv().ok().flatten().map(|(progress, _)| progress))
    }

    #[test]
    fn the_end_of_a_process_that_said_nothing_is_told_too() {
        let ends =
            [("kill -SYS $$", "system call"), ("kill -KILL $$", "killed"), ("kill -SEGV $$", "11"), ("exit 3", "3")];
        for (script, reason) in ends {
            let (Outcome::Ran(exit), None) = outcome(script, &[Told::Running]) else { panic!("{script}") };
            assert!(exit.reason == ExitReason::Error && exit.message.contains(reason), "{exit:?}");
        }
    }

    #[test]
    fn what_the_process_said_counts() {
        let exit = Exit { reason: ExitReason::Shutdown, message: "off".into() };
        let told = outcome("exit 0", &[Told::Running, Told::Ended(exit.clone())]);
        assert_eq!(told, (Outcome::Ran(exit), None));
    }

    #[test]
    fn a_start_that_ends_by_a_signal_is_told_to_who_waits_for_it() {
        let (Outcome::Failed, Some(Progress::Failed { message })) = outcome("kill -SYS $$", &[]) else {
            panic!("untold")
        };
        assert!(message.contains("system call"), "{message}");
        assert!(matches!(outcome("exit 1", &[]), (Outcome::Failed, None)), "it told that itself");
    }
}
