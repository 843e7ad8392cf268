//! What `berthd waitready` and `berthd shutdown` do: talk to a running daemon.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
    process::{PidfdFlags, pidfd_open},
};

use crate::{server::SOCKET, stop::Extent};

/// Longest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024;

/// Time that is left.
struct Deadline(Option<Instant>);

impl Deadline {
    fn after(patience: Option<Duration>) -> Self {
        Self(patience.map(|patience| Instant::now() + patience))
    }

    /// `None` once it has passed; the inner `None` means there is no end.
    fn left(&self) -> Option<Option<Duration>> {
        match self.0 {
            None => Some(None),
            Some(end) => end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).map(Some),
        }
    }

    /// Waits until the descriptor is readable; `false` if the time ran out.
    fn readable(&self, fd: impl AsFd) -> anyhow::Result<bool> {
        let Some(left) = self.left() else { return Ok(false) };
        let left = left.map(Timespec::try_from).transpose()?;
        let mut polled = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut polled, left.as_ref()) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Waits until the daemon of the directory is ready. Nothing is polled: the directory is watched until there is a
/// socket, and the daemon answers when it is ready.
pub fn wait_ready(dir: &Path, patience: Option<Duration>) -> anyhow::Result<()> {
    let deadline = Deadline::after(patience);
    let late = || format!("the daemon of {} is not ready in time; its log tells why", dir.display());
    loop {
        // Watch first, then try: a socket that appears in between is not missed.
        let watch = watch_for(dir)?;
        if let Ok(stream) = UnixStream::connect(dir.join(SOCKET)) {
            let Some(left) = deadline.left() else { bail!(late()) };
            stream.set_read_timeout(left)?;
            match request(stream, "GET", "/internal/ready") {
                Ok((200, _)) => return Ok(()),
                Ok((code, body)) => bail!("the daemon of {} answered {code}: {body}", dir.display()),
                Err(error) => tracing::debug!(%error, "the daemon did not answer"),
            }
        }
        if !deadline.readable(&watch)? {
            bail!(late());
        }
    }
}

/// Watches the directory, or the nearest one above it that exists.
fn watch_for(dir: &Path) -> anyhow::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let flags = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::ATTRIB;
    let dir = std::path::absolute(dir)?;
    for place in dir.ancestors() {
        match inotify::add_watch(&watch, place, flags | inotify::WatchFlags::ONLYDIR) {
            Ok(_) => return Ok(watch),
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot watch {}", place.display())),
        }
    }
    bail!("cannot watch {}", dir.display())
}

/// Tells the daemon to stop and waits until its process is gone.
pub fn shutdown(dir: &Path, extent: Extent, patience: Option<Duration>) -> anyhow::Result<()> {
    let deadline = Deadline::after(patience);
    let socket: PathBuf = dir.join(SOCKET);
    let stream = UnixStream::connect(&socket)
        .with_context(|| format!("no daemon answers on {}; is it running?", socket.display()))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream)?;
    // Opened before the request, so that the number cannot belong to another process by then.
    let process = pidfd_open(peer.pid, PidfdFlags::empty())?;
    stream.set_read_timeout(patience)?;
    match request(stream, "PUT", extent.path())? {
        (200, _) => {}
        (code, body) => bail!("the daemon answered {code}: {body}"),
    }
    if !deadline.readable(&process)? {
        bail!("the daemon did not stop in time; its log tells what it waits for");
    }
    Ok(())
}

/// One request; gives code and body of the answer.
fn request(mut stream: UnixStream, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: berth\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")?;
    let mut reader = BufReader::new(stream.take(MAX_ANSWER));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let code = line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no answer")?;
    let mut rest = String::new();
    reader.read_to_string(&mut rest)?;
    let body = rest.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_owned()).unwrap_or_default();
    Ok((code, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn serve(dir: &Path) {
        // As the daemon does it: when the socket appears it can be connected to.
        let temporary = dir.join("new");
        let listener = UnixListener::bind(&temporary).unwrap();
        std::fs::rename(temporary, dir.join(SOCKET)).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert_eq!(line, "GET /internal/ready HTTP/1.1\r\n");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    }

    #[test]
    fn waits_for_a_directory_and_a_socket_that_come_later() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("berth");
        let waiting = {
            let dir = dir.clone();
            std::thread::spawn(move || wait_ready(&dir, Some(Duration::from_secs(20))))
        };
        std::fs::create_dir(&dir).unwrap();
        serve(&dir);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn gives_up_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let error = wait_ready(dir.path(), Some(Duration::from_millis(50))).unwrap_err();
        assert!(error.to_string().contains("not ready in time"));
        assert!(shutdown(dir.path(), Extent::Daemon, Some(Duration::from_secs(1))).is_err());
    }
}
