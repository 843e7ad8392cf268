//! The connection of the guest's agent: it dials [`berth_guest::protocol::READY_PORT`], says [`Hello`] and stays connected as long as it lives.
//! One in a guest that goes on from a saved state is welcomed first: nobody hears of it before its clock is right and its
//! random numbers are its own.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{SystemTime, UNIX_EPOCH};

use berth_guest::frame::{self, Frame};
use berth_guest::protocol::{Hello, IDENTITY_VERSION, Identity, Reply, WELCOME_VERSION, Welcome};
use rustix::rand::{GetRandomFlags, getrandom};

/// Random bytes for a guest that goes on: as many as seed the kernel's generator.
const ENTROPY: usize = 64;
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

/// Where a guest comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Past {
    /// It was booted.
    Booted,
    /// It goes on from a saved state of its own.
    Saved,
    /// It goes on from that of another.
    AnothersState(Identity),
}

/// Where the agent reports.
pub struct AgentPort {
    listener: UnixListener,
    past: Past,
    candidates: Vec<Candidate>,
    current: Option<(UnixStream, Hello)>,
}

struct Candidate {
    stream: UnixStream,
    received: Vec<u8>,
    /// What it said, while its answer to the welcome is awaited.
    greeted: Option<Hello>,
}

/// What reading from a connection came to.
enum Heard {
    Nothing,
    Hello(Hello),
    /// It ended, or did not greet as an agent does.
    End,
}

impl AgentPort {
    /// Takes the agent's connections from `listener`, to which the socket device connects for a guest.
    pub fn new(listener: UnixListener, past: Past) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, past, candidates: Vec::new(), current: None })
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
            match self.candidates[index].hear(&self.past) {
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
                        self.candidates.push(Candidate { stream, received: Vec::new(), greeted: None });
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

impl Candidate {
    fn hear(&mut self, past: &Past) -> Heard {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Heard::End,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::Nothing,
                Err(_) => return Heard::End,
            }
            match take_frame(&mut self.received).and_then(|frame| self.understand(frame, past)) {
                Ok(None) => {}
                Ok(Some(hello)) => return Heard::Hello(hello),
                Err(_) => return Heard::End,
            }
        }
    }

    /// What the agent said, once there is no more to wait for.
    fn understand(&mut self, frame: Option<Frame>, past: &Past) -> io::Result<Option<Hello>> {
        let Some(frame) = frame else { return Ok(None) };
        let Some(greeted) = self.greeted.take() else {
            let hello: Hello = frame.parse()?;
            let Some(welcome) = welcome(past, &hello)? else { return Ok(Some(hello)) };
            let mut bytes = Vec::new();
            frame::write_json(&mut bytes, &welcome)?;
            // The connection is new and has room for that.
            self.stream.write_all(&bytes)?;
            self.greeted = Some(hello);
            return Ok(None);
        };
        if let Reply::Error(error) = frame.parse()? {
            tracing::warn!(%error, "the guest goes on from a saved state and is not as it should be");
            if let Past::AnothersState(_) = past {
                // It may still have the name and the addresses of others. Kept open, or else it would try for ever.
                return Ok(None);
            }
        }
        Ok(Some(greeted))
    }
}

/// What an agent is told before anybody hears of it, if anything.
fn welcome(past: &Past, hello: &Hello) -> io::Result<Option<Welcome>> {
    let identity = match past {
        Past::Booted => return Ok(None),
        Past::Saved if hello.protocol < WELCOME_VERSION => return Ok(None),
        Past::Saved => None,
        Past::AnothersState(_) if hello.protocol < IDENTITY_VERSION => {
            tracing::warn!(version = hello.agent_version, "the guest's agent is too old to be told who it is");
            return Err(io::ErrorKind::Unsupported.into());
        }
        Past::AnothersState(identity) => Some(identity.clone()),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    let mut entropy = vec![0; ENTROPY];
    // So few bytes come at once and whole.
    getrandom(&mut entropy, GetRandomFlags::empty())?;
    Ok(Some(Welcome { time_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), entropy, identity }))
}

/// Takes the first whole frame off `received`.
fn take_frame(received: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    let Some(length) = received.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_HELLO {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if received.len() < FRAME_HEADER + length {
        return Ok(None);
    }
    let frame = frame::read(&mut &received[..])?;
    received.drain(..FRAME_HEADER + length);
    Ok(frame)
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
    use berth_guest::protocol::{ErrorKind, GuestError};
    use std::io::Write;
    use std::path::PathBuf;

    fn hello(hostname: &str) -> Hello {
        Hello { protocol: 1, agent_version: "0".into(), kernel: "6.1".into(), hostname: hostname.into() }
    }

    fn port(past: Past) -> (tempfile::TempDir, PathBuf, AgentPort) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock_1024");
        let port = AgentPort::new(UnixListener::bind(&path).unwrap(), past).unwrap();
        (dir, path, port)
    }

    #[test]
    fn an_agent_that_goes_on_is_welcomed_before_anybody_hears_of_it() {
        let (_dir, path, mut port) = port(Past::Saved);
        let mut agent = UnixStream::connect(&path).unwrap();
        let greeting = Hello { protocol: WELCOME_VERSION, ..hello("a") };
        frame::write_json(&mut agent, &greeting).unwrap();
        assert!(port.handle().is_empty());
        let welcome: Welcome = frame::read(&mut agent).unwrap().unwrap().parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        assert!(welcome.time_ns <= now && now - welcome.time_ns < 60_000_000_000);
        assert_ne!(welcome.entropy, [0; ENTROPY]);
        assert!(port.handle().is_empty());
        frame::write_json(&mut agent, &Reply::Done).unwrap();
        assert_eq!(port.handle(), [AgentNews::Ready(greeting)]);
        // An agent of an older release does not know how to be welcomed.
        let mut old = UnixStream::connect(&path).unwrap();
        frame::write_json(&mut old, &hello("old")).unwrap();
        assert_eq!(port.handle(), [AgentNews::Lost, AgentNews::Ready(hello("old"))]);
    }

    #[test]
    fn an_heir_of_another_is_heard_of_once_it_knows_who_it_is() {
        let identity = Identity { hostname: "v2".into(), hwaddrs: vec![[2, 0, 0, 0, 0, 1]] };
        let (_dir, path, mut port) = port(Past::AnothersState(identity.clone()));
        let greet = |protocol: u32| {
            let mut agent = UnixStream::connect(&path).unwrap();
            frame::write_json(&mut agent, &Hello { protocol, ..hello("a") }).unwrap();
            agent
        };
        let mut old = greet(WELCOME_VERSION);
        assert!(port.handle().is_empty());
        assert!(frame::read(&mut old).unwrap().is_none(), "one that cannot be told is turned away");
        let mut unable = greet(IDENTITY_VERSION);
        assert!(port.handle().is_empty());
        let welcome: Welcome = frame::read(&mut unable).unwrap().unwrap().parse().unwrap();
        assert_eq!(welcome.identity, Some(identity));
        let error = GuestError { kind: ErrorKind::Other, message: "no".into() };
        frame::write_json(&mut unable, &Reply::Error(error)).unwrap();
        assert!(port.handle().is_empty());
        let mut able = greet(IDENTITY_VERSION);
        assert!(port.handle().is_empty());
        frame::write_json(&mut able, &Reply::Done).unwrap();
        assert_eq!(port.handle(), [AgentNews::Ready(Hello { protocol: IDENTITY_VERSION, ..hello("a") })]);
    }

    #[test]
    fn an_agent_comes_and_goes() {
        let (_dir, path, mut port) = port(Past::Booted);
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
    }

    #[test]
    fn what_is_no_agent_is_turned_away() {
        let (_dir, path, mut port) = port(Past::Booted);
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
