//! The unix socket: accepts connections, tells who is at the other end, and ends them gracefully.

mod connection;
mod gate;
mod leftover;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use connection::serve_connection;
pub use gate::{Door, Gate};

use crate::{
    http::{Caller, Peer},
    sys,
};

/// Name of the socket in the data directory.
pub const SOCKET: &str = "unix.socket";
/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// How long a client may take to send the head of a request. Idle connections are closed after it as well.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest path of a unix socket (`sun_path` without its final zero).
const MAX_SOCKET_PATH: usize = 107;

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path does not fit.
    #[error("the path {} of the socket is longer than {MAX_SOCKET_PATH} bytes; choose a shorter data directory", .0.display())]
    TooLong(PathBuf),
    /// The system refused.
    #[error("cannot open the socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The open socket.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Opens `DIR/unix.socket` for root and a group. The caller holds the directory's store, so that a socket found
    /// there is a dead daemon's. A group that does not exist is a warning: then only root may use the socket.
    pub fn bind(dir: &Path, group: Option<&str>) -> Result<Self, BindError> {
        let path = dir.join(SOCKET);
        // The temporary name is as long as it may be.
        let temporary = dir.join(".unix.sock.");
        if temporary.as_os_str().len() > MAX_SOCKET_PATH || path.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(BindError::TooLong(path));
        }
        let gid = group.and_then(|name| {
            let gid = sys::group_id(name);
            if gid.is_none() {
                tracing::warn!(
                    group = name,
                    "the group does not exist, only root may use the socket; make it with \"groupadd {name}\" and restart"
                );
            }
            gid
        });
        Self::open(&temporary, &path, gid.unwrap_or(0)).map_err(|source| BindError::Io { path, source })
    }

    /// Binds under a temporary name and renames, so that the socket is never there with the wrong owner.
    fn open(temporary: &Path, path: &Path, gid: u32) -> io::Result<Self> {
        match fs::remove_file(temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(temporary)?;
        chown(temporary, Some(0), Some(gid))?;
        fs::set_permissions(temporary, fs::Permissions::from_mode(0o660))?;
        fs::rename(temporary, path)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Accepts until `stop`, then removes the socket, lets each connection end its request, and returns when all of
    /// `connections` are closed.
    pub async fn run(self, gate: Gate, connections: TaskTracker, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&self.listener, &slots) => accepted,
            };
            match accepted {
                Ok((stream, slot)) => {
                    let (gate, stop) = (gate.clone(), stop.clone());
                    connections.spawn(async move {
                        connection(stream, gate, stop).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Out of descriptors: they come back when a connection ends.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "cannot remove the socket");
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }
}

async fn accept(
    listener: &UnixListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

async fn connection(stream: UnixStream, gate: Gate, stop: CancellationToken) {
    let caller = match caller(&stream).await {
        Ok(caller) => caller,
        Err(error) => {
            tracing::warn!(%error, "cannot tell who connected");
            return;
        }
    };
    serve_connection(stream, HEADER_TIMEOUT, gate, caller, Peer::Local, stop).await;
}

async fn caller(stream: &UnixStream) -> io::Result<Caller> {
    let uid = stream.peer_cred()?.uid();
    let username = match uid {
        0 => "root".to_owned(),
        _ => tokio::task::spawn_blocking(move || sys::user_name(uid)).await.map_err(io::Error::other)?,
    };
    Ok(Caller { username, protocol: "unix", address: "@".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_root_and_replaces_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let server = Server::bind(dir.path(), Some("no-such-group-here")).unwrap();
            assert_eq!(fs::metadata(&server.path).unwrap().permissions().mode() & 0o777, 0o660);
            assert!(UnixStream::connect(&server.path).await.is_ok());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_path_that_does_not_fit_is_named() {
        let long = PathBuf::from("/tmp").join("x".repeat(120));
        assert!(matches!(Server::bind(&long, None), Err(BindError::TooLong(_))));
    }
}
