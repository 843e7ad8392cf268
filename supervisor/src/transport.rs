//! JSON messages with file descriptors over `SOCK_SEQPACKET` unix sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::unix::AsyncFd;

/// Longest message; below the kernel's default socket buffer (`net.core.wmem_default`, 212,992 bytes) so that
/// one message always fits.
pub const MAX_MESSAGE: usize = 160 * 1024;
/// Most descriptors in one message; the kernel's own limit is 253 (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 64;

/// One end of a connection. Blocking, unless made otherwise.
#[derive(Debug)]
pub struct Endpoint(OwnedFd);

impl Endpoint {
    /// Two connected ends.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(a), Self(b)))
    }

    /// Takes over a connected `SOCK_SEQPACKET` socket.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Connects to the control socket at `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self(fd))
    }

    /// Sends one message; the whole or nothing.
    pub fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a message of {} bytes with {} descriptors is over the limit of {MAX_MESSAGE} and {MAX_FDS}",
                    bytes.len(),
                    fds.len()
                ),
            ));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        loop {
            match rustix::net::sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Receives one message with its descriptors; `None` when the other end is closed.
    pub fn recv<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = loop {
            match rustix::net::recvmsg(
                &self.0,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        let fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds.collect::<Vec<_>>()),
                _ => None,
            })
            .flatten()
            .collect();
        if got.bytes == 0 {
            return Ok(None);
        }
        if got.flags.intersects(rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message over the limit was cut off"));
        }
        let message = serde_json::from_slice(&bytes[..got.bytes])
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("malformed message: {e}")))?;
        Ok(Some((message, fds)))
    }

    /// Switches between blocking and not.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, on)?)
    }

    /// User id of the process at the other end when it connected.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(rustix::net::sockopt::socket_peercred(&self.0)?.uid.as_raw())
    }

    /// The socket itself, to be handed to a child.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Endpoint {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A listening control socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    /// Removed when this is dropped.
    path: Option<std::path::PathBuf>,
}

impl Listener {
    /// Leaves the removal of the socket's file to somebody else.
    pub fn leave_file(self) -> Self {
        let mut listener = self;
        listener.path = None;
        listener
    }

    /// Listens at `path` with mode 0600, replacing a socket file that a dead predecessor left. The file is removed when the
    /// listener is dropped.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        rustix::fs::chmod(path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        rustix::net::listen(&fd, 128)?;
        Ok(Self { fd, path: Some(path.to_owned()) })
    }

    /// Takes the next connection.
    pub fn accept(&self) -> io::Result<Endpoint> {
        Ok(Endpoint(rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC)?))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The run directory may be gone already, which is as good.
        let _ = self.path.take().map(std::fs::remove_file);
    }
}

/// An [`Endpoint`] for tokio. Sending and receiving are cancel safe: a message is taken whole or not at all.
#[derive(Debug)]
pub struct AsyncEndpoint(AsyncFd<Endpoint>);

impl AsyncEndpoint {
    /// Takes over a blocking end. Needs a tokio runtime.
    pub fn new(endpoint: Endpoint) -> io::Result<Self> {
        endpoint.set_nonblocking(true)?;
        // SAFETY: an `Endpoint` owns its open descriptor for its whole life and never replaces it.
        Ok(Self(unsafe { AsyncFd::register(endpoint) }?))
    }

    /// Connects to the control socket at `path`. Connecting to a unix socket does not wait for the other side.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::new(Endpoint::connect(path)?)
    }

    /// See [`Endpoint::send`].
    pub async fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|inner| inner.get_ref().send(message, fds)) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }

    /// See [`Endpoint::recv`].
    pub async fn recv<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|inner| inner.get_ref().recv()) {
                Ok(result) => return result,
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors() {
        let (a, b) = Endpoint::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        a.send(&"hello", &[writer.as_fd()]).unwrap();
        drop(writer);
        let (text, fds): (String, _) = b.recv().unwrap().unwrap();
        assert_eq!(text, "hello");
        rustix::io::write(&fds[0], b"x").unwrap();
        drop(fds);
        let mut buffer = [0; 8];
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 1);
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 0, "no other copy of the descriptor is left");
    }

    #[test]
    fn the_end_of_the_peer_is_seen_and_large_messages_are_refused() {
        let (a, b) = Endpoint::pair().unwrap();
        assert!(a.send(&"x".repeat(MAX_MESSAGE), &[]).is_err());
        drop(a);
        assert!(b.recv::<String>().unwrap().is_none());
    }

    #[test]
    fn the_listener_takes_its_file_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let listener = Listener::bind(&path).unwrap();
        let client = Endpoint::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        client.send(&1, &[]).unwrap();
        assert_eq!(server.recv::<i32>().unwrap().unwrap().0, 1);
        assert_eq!(server.peer_uid().unwrap(), rustix::process::getuid().as_raw());
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn both_kinds_of_end_understand_each_other() {
        let (a, b) = Endpoint::pair().unwrap();
        let b = AsyncEndpoint::new(b).unwrap();
        let answer = tokio::spawn(async move {
            let (n, _): (i32, _) = b.recv().await.unwrap().unwrap();
            b.send(&(n + 1), &[]).await.unwrap();
        });
        a.send(&41, &[]).unwrap();
        assert_eq!(a.recv::<i32>().unwrap().unwrap().0, 42);
        answer.await.unwrap();
    }
}
