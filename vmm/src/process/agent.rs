//! The connection of the guest's agent: it dials [`READY_PORT`], says [`Hello`] and stays connected as long as it lives.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use berth_guest::frame;
use berth_guest::protocol::{Hello, READY_PORT};

/// Longest greeting; a guest's text is not to fill the host's memory.
const MAX_HELLO: usize = 16 * 1024;
/// Length and kind.
const FRAME_HEADER: usize = 5;
/// Connections that may be about to greet at once; more are closed.
const MAX_CANDIDATES: usize = 8;

/// What became known about the agent.
#[derive(Debug, PartialEq, Eq)]
pub enum AgentNews {
    /// It greeted.
    Ready(Hello),
    /// Its connection ended.
    Lost,
}

/// Where the agent reports; removes its socket when dropped.
pub struct AgentPort {
    listener: UnixListener,
    path: PathBuf,
    candidates: Vec<Candidate>,
    current: Option<(UnixStream, Hello)>,
}

struct Candidate {
    stream: UnixStream,
    received: Vec<u8>,
}

/// What reading from a connection came to.
enum Heard {
    Nothing,
    Hello(Hello),
    /// It ended, or did not greet as an agent does.
    End,
}

/// Listens at `path`, replacing what a dead predecessor left.
pub fn bind_fresh(path: impl AsRef<Path>) -> io::Result<UnixListener> {
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}

impl AgentPort {
    /// Listens in the current directory, where the socket device connects to for a guest.
    pub fn listen() -> io::Result<Self> {
        Self::listen_at(format!("vsock_{READY_PORT}").into())
    }

    fn listen_at(path: PathBuf) -> io::Result<Self> {
        let listener = bind_fresh(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, path, candidates: Vec::new(), current: None })
    }

    /// What to watch for input. When one of these is readable, call [`handle`](Self::handle).
    pub fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let current = self.current.iter().map(|(stream, _)| stream.as_fd());
        let candidates = self.candidates.iter().map(|candidate| candidate.stream.as_fd());
        std::iter::once(self.listener.as_fd()).chain(current).chain(candidates)
    }

    /// What the agent said last, while it is connected.
    pub fn hello(&self) -> Option<&Hello> {
        self.current.as_ref().map(|(_, hello)| hello)
    }

    /// Takes and reads what there is, never waiting; tells what changed.
    pub fn handle(&mut self) -> Vec<AgentNews> {
        let mut news = Vec::new();
        if let Some((stream, _)) = &mut self.current
            && is_over(stream)
        {
            self.current = None;
            news.push(AgentNews::Lost);
        }
        self.accept();
        let mut index = 0;
        while index < self.candidates.len() {
            match self.candidates[index].hear() {
                Heard::Nothing => index += 1,
                Heard::End => drop(self.candidates.swap_remove(index)),
                Heard::Hello(hello) => {
                    let stream = self.candidates.swap_remove(index).stream;
                    if self.current.replace((stream, hello.clone())).is_some() {
                        // It was started anew, and the end of the old one is still under way.
                        news.push(AgentNews::Lost);
                    }
                    news.push(AgentNews::Ready(hello));
                }
            }
        }
        news
    }

    fn accept(&mut self) {
        // What is left over makes the listener readable again.
        for _ in 0..=MAX_CANDIDATES {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if self.candidates.len() < MAX_CANDIDATES && stream.set_nonblocking(true).is_ok() {
                        self.candidates.push(Candidate { stream, received: Vec::new() });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection of the guest's agent");
                    return;
                }
            }
        }
    }
}

impl Drop for AgentPort {
    fn drop(&mut self) {
        // The run directory may be gone already, which is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Candidate {
    fn hear(&mut self) -> Heard {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Heard::End,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
                Err(_) => return Heard::End,
            }
            match parse(&self.received) {
                Heard::Nothing => {}
                other => return other,
            }
        }
    }
}

fn parse(received: &[u8]) -> Heard {
    let Some((length, _)) = received.split_first_chunk::<4>() else { return Heard::Nothing };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_HELLO {
        return Heard::End;
    }
    if received.len() < FRAME_HEADER + length {
        return Heard::Nothing;
    }
    let mut bytes = received;
    match frame::read(&mut bytes) {
        Ok(Some(frame)) => frame.parse().map_or(Heard::End, Heard::Hello),
        _ => Heard::End,
    }
}

/// The agent has nothing more to say on its connection; what comes is dropped, an end is an end. One read a call, so that a
/// guest that sends without end takes no more than its turn.
fn is_over(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0; 4096]) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn hello(hostname: &str) -> Hello {
        Hello { protocol: 1, agent_version: "0".into(), kernel: "6.1".into(), hostname: hostname.into() }
    }

    fn port() -> (tempfile::TempDir, PathBuf, AgentPort) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock_1024");
        let port = AgentPort::listen_at(path.clone()).unwrap();
        (dir, path, port)
    }

    #[test]
    fn an_agent_comes_and_goes() {
        let (_dir, path, mut port) = port();
        let mut agent = UnixStream::connect(&path).unwrap();
        let mut wire = Vec::new();
        frame::write_json(&mut wire, &hello("a")).unwrap();
        agent.write_all(&wire[..7]).unwrap();
        assert!(port.handle().is_empty());
        agent.write_all(&wire[7..]).unwrap();
        assert_eq!(port.handle(), [AgentNews::Ready(hello("a"))]);
        assert_eq!(port.watched().count(), 2);
        let mut second = UnixStream::connect(&path).unwrap();
        frame::write_json(&mut second, &hello("b")).unwrap();
        assert_eq!(port.handle(), [AgentNews::Lost, AgentNews::Ready(hello("b"))]);
        assert_eq!(port.hello(), Some(&hello("b")));
        drop(second);
        assert_eq!(port.handle(), [AgentNews::Lost]);
        drop(port);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_agent_is_turned_away() {
        let (_dir, path, mut port) = port();
        let mut liar = UnixStream::connect(&path).unwrap();
        liar.write_all(&u32::MAX.to_le_bytes()).unwrap();
        let silent: Vec<_> = (0..20).map(|_| UnixStream::connect(&path).unwrap()).collect();
        assert!(port.handle().is_empty());
        assert!(port.candidates.len() <= MAX_CANDIDATES);
        drop(silent);
        assert!(port.handle().is_empty());
        assert!(port.candidates.is_empty());
    }
}
