//! The console's terminal between the container and [`berth_supervisor::console`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use berth_guest::protocol::WindowSize;
use berth_supervisor::console::{Console, Input};
use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::pty;

/// Bytes read at once; a terminal gives no more than 4 KiB anyway.
const CHUNK: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) console: Console,
    pub(super) master: OwnedFd,
    /// Keeps the terminal alive while nothing in the container has it open; else the master would report a hang-up
    /// without end.
    _slave: OwnedFd,
    /// What the client typed and the terminal had no room for.
    typed: Vec<u8>,
    /// Counts the clients, so that the end of an old connection does not detach a new client.
    generation: u64,
}

impl Terminal {
    pub(super) fn new(console: Console, master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let slave = pty::open_slave(master.as_fd())?;
        Ok(Self { console, master, _slave: slave, typed: Vec::new(), generation: 0 })
    }

    /// What to watch the master for.
    pub(super) fn interest(&self) -> PollFlags {
        if self.typed.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT }
    }

    /// What to watch the client for. One that types faster than is read has to wait.
    pub(super) fn client_interest(&self, has_output: bool) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, self.typed.is_empty());
        interest.set(PollFlags::OUT, has_output);
        interest
    }

    /// The master is ready.
    pub(super) fn on_master(&mut self) {
        self.write();
        self.read();
    }

    /// Takes what is there of the container's output.
    pub(super) fn read(&mut self) -> bool {
        let mut buffer = [0; CHUNK];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(length) if length > 0 => {
                self.console.output(&buffer[..length]);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// The client is ready.
    pub(super) fn on_client(&mut self, flags: PollFlags) {
        self.console.flush();
        if !self.typed.is_empty() {
            // A hang-up is reported whether it is asked for or not, and would be again and again.
            if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
                self.console.detach();
            }
            return;
        }
        if let Input::Bytes(bytes) = self.console.input() {
            self.typed = bytes;
            self.write();
        }
    }

    fn write(&mut self) {
        while !self.typed.is_empty() {
            match rustix::io::write(&self.master, &self.typed) {
                Ok(length) => drop(self.typed.drain(..length)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // A terminal that is broken takes nothing more.
                Err(_) => self.typed.clear(),
            }
        }
    }

    /// Attaches a client; returns its end and the number of its turn.
    pub(super) fn attach(&mut self, force: bool) -> Result<(OwnedFd, u64), berth_supervisor::console::AttachError> {
        let stream = self.console.attach(force)?;
        self.typed.clear();
        self.generation += 1;
        Ok((stream, self.generation))
    }

    /// The connection of client number `generation` has ended.
    pub(super) fn detach(&mut self, generation: u64) {
        if self.generation == generation {
            self.console.detach();
        }
    }

    /// Client number `generation` has a window of that size.
    pub(super) fn resize(&self, generation: u64, size: WindowSize) {
        if self.generation == generation {
            // A size the kernel does not take changes nothing.
            let _ = pty::resize(&self.master, size);
        }
    }
}
