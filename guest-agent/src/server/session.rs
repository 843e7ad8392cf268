//! A running program and its connection: one loop that never waits for a single one of them.

use std::{
    io::{self, Read},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::{Duration, Instant},
};

use berth_guest::{
    frame::{self, DATA_CHUNK, Frame, Kind, MAX_PAYLOAD},
    protocol::{ExecControl, ExecSpec, Reply},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    process::Signal,
};

use super::{
    Connection,
    program::{self, Program},
};

/// Input held for a program that does not read. Beyond it nothing more is taken from the connection, control messages
/// neither.
const MAX_INPUT: usize = 1024 * 1024;
/// Output held for a host that does not read; beyond it the program is held up.
const MAX_OUTPUT: usize = 256 * 1024;
/// Output of each stream that is still read after the program ended: what a pipe may hold. Others may go on writing.
const MAX_REST: usize = 1024 * 1024;
/// How long the kernel may take to pass a terminal's last output on after the program ended, if others keep it open.
const TERMINAL_REST: Duration = Duration::from_millis(100);

/// Starts a program, and serves it until it ended or the connection is lost.
pub(super) fn exec(mut connection: Connection, spec: &ExecSpec) -> io::Result<()> {
    let program = match program::start(spec) {
        Ok(program) => program,
        Err(e) => return frame::write_json(&mut connection, &Reply::Error(e)),
    };
    let mut session = Session {
        inbox: Vec::new(),
        outbox: Vec::new(),
        input: Vec::new(),
        input_ended: false,
        ended: None,
        rest: [0; 2],
        connection,
        program,
    };
    let result = session.run();
    if session.ended.is_none() {
        session.kill();
    }
    result
}

/// A program that ended.
#[derive(Debug, Clone, Copy)]
struct Ended {
    status: i32,
    at: Instant,
}

struct Session {
    connection: Connection,
    program: Program,
    /// Bytes from the host that make no whole frame yet.
    inbox: Vec<u8>,
    /// Frames for the host.
    outbox: Vec<u8>,
    /// Input for the program.
    input: Vec<u8>,
    /// The host sent all input.
    input_ended: bool,
    ended: Option<Ended>,
    /// Bytes read from each output after the end.
    rest: [usize; 2],
}

/// What is ready.
struct Ready {
    connection: PollFlags,
    pidfd: PollFlags,
    stdin: PollFlags,
    outputs: [PollFlags; 2],
}

impl Session {
    fn run(&mut self) -> io::Result<()> {
        program::set_nonblocking(&self.connection)?;
        let pid = self.program.pid().as_raw_nonzero().get() as u32;
        frame::write_json(&mut self.outbox, &Reply::Started { pid })?;
        loop {
            let ready = self.wait()?;
            if ready.connection.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if ready.connection.contains(PollFlags::IN) {
                self.receive()?;
            }
            if !ready.pidfd.is_empty() && self.ended.is_none() {
                let status = self.program.child.wait()?;
                self.ended = Some(Ended { status: exit_code(status), at: Instant::now() });
            }
            if !ready.stdin.is_empty() {
                self.feed();
            }
            for i in 0..2 {
                if !ready.outputs[i].is_empty() || self.ended.is_some() {
                    self.collect(i)?;
                }
            }
            if let Some(ended) = self.ended
                && self.program.outputs.iter().all(Option::is_none)
            {
                frame::write_json(&mut self.outbox, &Reply::Exited { status: ended.status })?;
                return self.finish();
            }
            self.send()?;
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> io::Result<Ready> {
        let mut connection = PollFlags::RDHUP;
        if self.input.len() < MAX_INPUT {
            connection |= PollFlags::IN;
        }
        if !self.outbox.is_empty() {
            connection |= PollFlags::OUT;
        }
        let output = if self.outbox.len() < MAX_OUTPUT { PollFlags::IN } else { PollFlags::empty() };
        let stdin = self.program.stdin.as_ref().filter(|_| !self.input.is_empty());
        let outputs = self.program.outputs.each_ref().map(|fd| fd.as_ref().filter(|_| !output.is_empty()));
        let pidfd = self.ended.is_none().then_some(&self.program.pidfd);
        let mut fds = vec![PollFd::new(&self.connection, connection)];
        let optional = [(pidfd, PollFlags::IN), (stdin, PollFlags::OUT), (outputs[0], output), (outputs[1], output)];
        fds.extend(optional.iter().filter_map(|(fd, flags)| fd.map(|fd| PollFd::new(fd, *flags))));
        let timeout = self.ended.map(|ended| TERMINAL_REST.saturating_sub(ended.at.elapsed()));
        let timeout = timeout.filter(|_| outputs.iter().any(Option::is_some)).map(timespec);
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut seen = fds.iter().map(PollFd::revents);
        let connection = seen.next().unwrap_or(PollFlags::empty());
        let mut next = |fd: bool| if fd { seen.next().unwrap_or(PollFlags::empty()) } else { PollFlags::empty() };
        Ok(Ready {
            connection,
            pidfd: next(pidfd.is_some()),
            stdin: next(stdin.is_some()),
            outputs: [next(outputs[0].is_some()), next(outputs[1].is_some())],
        })
    }

    /// Reads from the host and acts on whole frames.
    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; DATA_CHUNK];
        match self.connection.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::ConnectionAborted.into()),
            Ok(n) => self.inbox.extend_from_slice(&buffer[..n]),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return Ok(()),
            Err(e) => return Err(e),
        }
        while let Some(frame) = take_frame(&mut self.inbox)? {
            match frame.kind {
                Kind::Stdin if frame.payload.is_empty() => self.input_ended = true,
                // A program that closed its input gets no more.
                Kind::Stdin if self.program.stdin.is_some() => self.input.extend_from_slice(&frame.payload),
                Kind::Stdin => {}
                _ => self.control(frame.parse()?),
            }
        }
        self.close_input();
        Ok(())
    }

    fn control(&mut self, control: ExecControl) {
        match control {
            ExecControl::Resize(size) => {
                if let Some(terminal) = &self.program.terminal {
                    // A size that the kernel refuses leaves the old one.
                    let _ = program::resize(terminal, size);
                }
            }
            ExecControl::Signal(number @ 1..=64) if self.ended.is_none() => {
                // SAFETY: the number is one of a signal, and the agent gives none of them a meaning of its own.
                let signal = unsafe { Signal::from_raw_unchecked(number) };
                // It may have ended just now.
                let _ = rustix::process::pidfd_send_signal(&self.program.pidfd, signal);
            }
            ExecControl::Signal(_) => {}
        }
    }

    /// Writes held input to the program.
    fn feed(&mut self) {
        let Some(stdin) = &self.program.stdin else { return };
        match rustix::io::write(stdin, &self.input) {
            Ok(n) => drop(self.input.drain(..n)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                self.input.clear();
                self.program.stdin = None;
            }
        }
        self.close_input();
    }

    /// Gives the program end of file after all input. A terminal has no such thing: it stays open.
    fn close_input(&mut self) {
        if self.input_ended && self.input.is_empty() && self.program.terminal.is_none() {
            self.program.stdin = None;
        }
    }

    /// Reads an output of the program.
    fn collect(&mut self, i: usize) -> io::Result<()> {
        let Some(fd) = &self.program.outputs[i] else { return Ok(()) };
        if self.outbox.len() >= MAX_OUTPUT {
            return Ok(());
        }
        let kind = if i == 0 { Kind::Stdout } else { Kind::Stderr };
        let mut buffer = [0; DATA_CHUNK];
        let ends = match rustix::io::read(fd, &mut buffer) {
            Ok(0) => true,
            Ok(n) => {
                frame::write(&mut self.outbox, kind, &buffer[..n])?;
                if self.ended.is_some() {
                    self.rest[i] += n;
                }
                self.rest[i] > MAX_REST
            }
            Err(Errno::INTR) => false,
            Err(Errno::AGAIN) => match self.ended {
                // All that the program itself wrote to a pipe is there already.
                Some(ended) => self.program.terminal.is_none() || ended.at.elapsed() >= TERMINAL_REST,
                None => false,
            },
            // A terminal whose last user closed it gives EIO.
            Err(_) => true,
        };
        if ends {
            self.program.outputs[i] = None;
            frame::write(&mut self.outbox, kind, &[])?;
        }
        Ok(())
    }

    /// Writes held frames to the host as far as it takes them.
    fn send(&mut self) -> io::Result<()> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        match rustix::net::send(&self.connection, &self.outbox, rustix::net::SendFlags::NOSIGNAL) {
            Ok(n) => drop(self.outbox.drain(..n)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Writes all held frames.
    fn finish(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            let mut fds = [PollFd::new(&self.connection, PollFlags::OUT)];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => self.send()?,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Kills the program's process group; its session hangs up with the terminal.
    fn kill(&mut self) {
        // The leader was not waited for, so the id of its group is still its own.
        let _ = rustix::process::kill_process_group(self.program.pid(), Signal::KILL);
        self.program.stdin = None;
        self.program.outputs = [None, None];
        self.program.terminal = None;
        let _ = self.program.child.wait();
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

/// Takes the first whole frame off `bytes`.
fn take_frame(bytes: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    let Some(header) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*header) as usize;
    let whole = length.saturating_add(5);
    if length <= MAX_PAYLOAD && bytes.len() < whole {
        return Ok(None);
    }
    let frame = frame::read(&mut bytes.as_slice())?;
    bytes.drain(..whole);
    Ok(frame)
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}
