//! A program that runs for a client.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use berth_supervisor::protocol::{Input, RefusalKind, Reply};
use berth_supervisor::transport::Endpoint;

use crate::error::{Context, Error, Result};
use crate::exec::{Birth, Instructions, Made};
use crate::process::{self, OwnBinary};
use crate::{pty, sys};

/// Longest that is read before the program runs: its process id or the text of a failure.
const BIRTH_MAX: usize = 64 * 1024;

/// Dropped, it kills what it has made.
#[derive(Debug)]
pub(super) struct Session {
    stage: Stage,
    master: Option<OwnedFd>,
}

#[derive(Debug)]
enum Stage {
    /// The helper enters the container.
    Joining {
        helper: OwnedFd,
        socket: Endpoint,
    },
    /// The program's process prepares itself.
    Born {
        program: OwnedFd,
        stream: UnixStream,
        told: Vec<u8>,
    },
    Running {
        program: OwnedFd,
    },
    /// Reaped.
    Over,
}

/// What follows from an event.
#[derive(Debug)]
pub(super) enum Next {
    Wait,
    /// Tell the client; with the terminal's master if there is one.
    Started(Reply, Option<OwnedFd>),
    /// Tell the client and be done.
    Over(Reply),
}

impl Session {
    /// Starts the helper. `fds` are the client's three unless a terminal is wanted, `cgroups` where to join.
    /// Returns the helper's pidfd too, for it to be reaped.
    pub(super) fn start(
        binary: &OwnBinary,
        instructions: Instructions,
        init: BorrowedFd<'_>,
        fds: &[OwnedFd],
        cgroups: &[OwnedFd],
    ) -> Result<(Self, OwnedFd)> {
        let (socket, remote) = Endpoint::pair().context("make a socket pair")?;
        let helper = binary.spawn("exec", remote.into_fd())?;
        let mut handed = vec![init];
        handed.extend(fds.iter().chain(cgroups).map(AsFd::as_fd));
        let copy = helper.try_clone().context("copy a descriptor")?;
        let session = Self { stage: Stage::Joining { helper, socket }, master: None };
        if let Stage::Joining { socket, .. } = &session.stage {
            socket.send(&instructions, &handed).context("instruct the exec helper")?;
        }
        Ok((session, copy))
    }

    /// What to watch for input.
    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        match &self.stage {
            Stage::Joining { socket, .. } => Some(socket.as_fd()),
            Stage::Born { stream, .. } => Some(stream.as_fd()),
            Stage::Running { program } => Some(program.as_fd()),
            Stage::Over => None,
        }
    }

    /// What is watched is ready.
    pub(super) fn on_ready(&mut self) -> Result<Next> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Joining { socket, .. } => self.joined(&socket),
            Stage::Born { program, stream, told } => self.told(program, stream, told),
            Stage::Running { program } => {
                let end = process::wait(program.as_fd()).context("wait for the program")?;
                Ok(Next::Over(Reply::ExecExited { status: end.status() }))
            }
            Stage::Over => Ok(Next::Wait),
        }
    }

    fn joined(&mut self, socket: &Endpoint) -> Result<Next> {
        let fds = match socket.recv().context("hear the exec helper")? {
            Some((Made::Program, fds)) => fds,
            Some((Made::Failed(message), _)) => return Ok(refuse(RefusalKind::Other, message)),
            None => return Ok(refuse(RefusalKind::Other, "the container ended before the program could run".into())),
        };
        let mut fds = fds.into_iter();
        let (Some(program), Some(stream)) = (fds.next(), fds.next()) else {
            return Err(Error::Init("the exec helper handed over too little".into()));
        };
        self.master = fds.next();
        let mut stream = UnixStream::from(stream);
        // Its process waits for this; if it is dead already its stream tells so next.
        let _ = stream.write_all(&[1]);
        stream.set_nonblocking(true).context("watch the program")?;
        self.stage = Stage::Born { program, stream, told: Vec::new() };
        Ok(Next::Wait)
    }

    fn told(&mut self, program: OwnedFd, mut stream: UnixStream, mut told: Vec<u8>) -> Result<Next> {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(length) if length > 0 && told.len() < BIRTH_MAX => {
                told.extend_from_slice(&buffer[..length]);
                self.stage = Stage::Born { program, stream, told };
                return Ok(Next::Wait);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.stage = Stage::Born { program, stream, told };
                return Ok(Next::Wait);
            }
            Ok(_) | Err(_) => {}
        }
        let (kind, message) = match Birth::parse(&told) {
            Birth::Running { pid } => {
                self.stage = Stage::Running { program };
                let master = match &self.master {
                    Some(master) => Some(master.try_clone().context("copy the terminal")?),
                    None => None,
                };
                return Ok(Next::Started(Reply::ExecStarted { pid }, master));
            }
            Birth::Failed { kind, message } => (kind, message),
            Birth::Nothing => (RefusalKind::Other, "the program's process was killed before the program ran".into()),
        };
        process::kill(program.as_fd());
        process::wait(program.as_fd()).context("wait for the program's process")?;
        Ok(refuse(kind, message))
    }

    /// The client says something.
    pub(super) fn input(&self, input: &Input) {
        match (input, &self.stage, &self.master) {
            (Input::Resize(size), _, Some(master)) => drop(pty::resize(master, *size)),
            // A number that is no signal, or a program that is gone: nothing happens, as with kill(1).
            (Input::Signal(signal), Stage::Running { program }, _) if *signal > 0 => {
                drop(sys::pidfd_signal(program.as_fd(), *signal));
            }
            _ => {}
        }
    }

    /// The container has ended and every process in it is dead: the program's last word.
    pub(super) fn died(&mut self) -> Result<Next> {
        match &self.stage {
            Stage::Running { .. } => self.on_ready(),
            _ => Ok(refuse(RefusalKind::Other, "the container ended before the program could run".into())),
        }
    }

    /// Ends it; returns what has yet to be reaped.
    pub(super) fn kill(mut self) -> Option<OwnedFd> {
        let program = match std::mem::replace(&mut self.stage, Stage::Over) {
            // Its program, if it has made one, waits for leave that never comes.
            Stage::Joining { helper, socket } => {
                process::kill(helper.as_fd());
                drop(socket.set_nonblocking(true));
                match socket.recv::<Made>() {
                    Ok(Some((Made::Program, fds))) => fds.into_iter().next(),
                    _ => None,
                }
            }
            Stage::Born { program, .. } | Stage::Running { program } => Some(program),
            Stage::Over => None,
        };
        if let Some(program) = &program {
            process::kill(program.as_fd());
        }
        program
    }
}

fn refuse(kind: RefusalKind, message: String) -> Next {
    Next::Over(Reply::Refused { kind, message })
}
