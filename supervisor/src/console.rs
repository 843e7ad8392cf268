//! Ring buffer, log file and the single attached client of a console.
//!
//! The owner runs an event loop: it feeds [`Console::output`] with what the guest prints, watches
//! [`Console::client`], calls [`Console::flush`] when that is writable and [`Console::input`] when it is readable.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Bytes of output kept in memory and shown to whoever attaches; LXD keeps as much.
pub const RING_SIZE: usize = 128 * 1024;
/// Size at which the log file is copied to `NAME.1` (replacing an older one) and begun anew.
pub const LOG_SIZE: u64 = 4 * 1024 * 1024;
/// Output kept for a client that does not read; beyond it the oldest is dropped, so a guest is never held up.
const CLIENT_BACKLOG: usize = 4 * RING_SIZE;

/// See the module's text.
#[derive(Debug)]
pub struct Console {
    ring: VecDeque<u8>,
    log: Log,
    client: Option<Client>,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    pending: VecDeque<u8>,
}

/// What [`Console::input`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// Bytes for the guest; empty if there was nothing yet.
    Bytes(Vec<u8>),
    /// The client is gone and has been detached.
    Detached,
}

/// Somebody else is attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// See [`Console::attach`].
    #[error("another client is attached to the console; detach it or attach with --force")]
    Busy,
    /// No socket pair could be made.
    #[error("cannot make the console's connection: {0}")]
    Io(#[from] io::Error),
}

impl Console {
    /// A console that logs to the file at `log_path` (appended to, mode 0600). Nothing is opened by path later.
    pub fn new(log_path: &Path) -> io::Result<Self> {
        Ok(Self { ring: VecDeque::new(), log: Log::open(log_path)?, client: None })
    }

    /// Takes what the guest printed.
    pub fn output(&mut self, bytes: &[u8]) {
        push_bounded(&mut self.ring, bytes, RING_SIZE);
        if self.log.write(bytes).is_err() {
            // A full disk must stop neither the guest nor its console; the ring still has the text.
            self.log.length = 0;
        }
        if let Some(client) = &mut self.client {
            push_bounded(&mut client.pending, bytes, CLIENT_BACKLOG);
        }
        self.flush();
    }

    /// Attaches a new client and returns its end of the connection. Its first bytes are the ring's content.
    pub fn attach(&mut self, force: bool) -> Result<OwnedFd, AttachError> {
        if self.client.is_some() && !force {
            return Err(AttachError::Busy);
        }
        let (stream, remote) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        self.client = Some(Client { stream, pending: self.ring.clone() });
        self.flush();
        Ok(remote.into())
    }

    /// Ends the client's connection, if there is one.
    pub fn detach(&mut self) {
        self.client = None;
    }

    /// The client's socket to watch for input, and whether to watch it for room to write as well.
    pub fn client(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.client.as_ref().map(|client| (client.stream.as_fd(), !client.pending.is_empty()))
    }

    /// Sends the client what it has room for.
    pub fn flush(&mut self) {
        let Some(client) = &mut self.client else { return };
        while !client.pending.is_empty() {
            match client.stream.write(client.pending.as_slices().0) {
                Ok(0) => break,
                Ok(n) => drop(client.pending.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.client = None;
                    break;
                }
            }
        }
    }

    /// Reads what the client typed. Never blocks.
    pub fn input(&mut self) -> Input {
        let Some(client) = &mut self.client else { return Input::Detached };
        let mut buffer = [0; 4096];
        match client.stream.read(&mut buffer) {
            Ok(n) if n > 0 => Input::Bytes(buffer[..n].to_vec()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Input::Bytes(Vec::new())
            }
            Ok(_) | Err(_) => {
                self.client = None;
                Input::Detached
            }
        }
    }
}

/// The log and what it held before it was begun anew.
#[derive(Debug)]
struct Log {
    present: File,
    past: File,
    length: u64,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let open = |path: &Path| OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let present = open(path)?;
        let mut past = path.to_owned().into_os_string();
        past.push(".1");
        let length = present.metadata()?.len();
        Ok(Self { present, past: open(Path::new(&past))?, length })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length + bytes.len() as u64 > LOG_SIZE {
            self.turn_over()?;
        }
        self.present.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Both files are appended to, so that what is written lands at their end wherever that is.
    fn turn_over(&mut self) -> io::Result<()> {
        const PIECE: usize = 64 * 1024;
        self.past.set_len(0)?;
        let (mut piece, mut at) = (vec![0; PIECE], 0);
        while let count @ 1.. = self.present.read_at(&mut piece, at)? {
            self.past.write_all(&piece[..count])?;
            at += count as u64;
        }
        self.present.set_len(0)?;
        self.length = 0;
        Ok(())
    }
}

fn push_bounded(queue: &mut VecDeque<u8>, bytes: &[u8], cap: usize) {
    let bytes = &bytes[bytes.len().saturating_sub(cap)..];
    let excess = (queue.len() + bytes.len()).saturating_sub(cap);
    queue.drain(..excess.min(queue.len()));
    queue.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> (tempfile::TempDir, Console) {
        let dir = tempfile::tempdir().unwrap();
        let console = Console::new(&dir.path().join("console.log")).unwrap();
        (dir, console)
    }

    #[test]
    fn who_attaches_sees_the_past_and_the_present() {
        let (dir, mut console) = console();
        console.output(b"past ");
        let mut client = UnixStream::from(console.attach(false).unwrap());
        console.output(b"present");
        let mut text = [0; 12];
        client.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"past present");
        client.write_all(b"typed").unwrap();
        assert_eq!(console.input(), Input::Bytes(b"typed".to_vec()));
        drop(client);
        assert_eq!(console.input(), Input::Detached);
        assert_eq!(std::fs::read(dir.path().join("console.log")).unwrap(), b"past present");
    }

    #[test]
    fn a_second_client_needs_force() {
        let (_dir, mut console) = console();
        let mut first = UnixStream::from(console.attach(false).unwrap());
        assert!(matches!(console.attach(false), Err(AttachError::Busy)));
        let _second = console.attach(true).unwrap();
        assert_eq!(first.read(&mut [0; 1]).unwrap(), 0, "the first is cut off");
    }

    #[test]
    fn a_client_that_does_not_read_holds_up_nobody() {
        let (_dir, mut console) = console();
        let _silent = console.attach(false).unwrap();
        for _ in 0..64 {
            console.output(&[b'x'; 64 * 1024]);
        }
        assert!(console.client.as_ref().unwrap().pending.len() <= CLIENT_BACKLOG);
        assert_eq!(console.ring.len(), RING_SIZE);
    }

    #[test]
    fn the_log_is_turned_over() {
        let (dir, mut console) = console();
        let half = LOG_SIZE / 2 + 1;
        for byte in [b'x', b'y', b'z'] {
            console.output(&vec![byte; half as usize]);
        }
        let log = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(log("console.log.1"), vec![b'y'; half as usize]);
        assert_eq!(log("console.log"), vec![b'z'; half as usize]);
    }
}
