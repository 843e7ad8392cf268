//! The socket on which a running instance asks about itself, LXD's `/dev/lxd/sock`.
//!
//! Each instance has a socket of its own in a directory that nobody else sees: who asks is known by where they ask, not
//! by what they say. The directory is there if and only if the instance was started with one.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, Result};
use crate::model::{Config, Instance, Kind};
use crate::values::parse_bool;

/// Name of the socket in its directory.
const SOCKET: &str = "sock";

/// The socket of one run of an instance.
#[derive(Debug)]
pub struct Door {
    /// Project of the instance.
    pub project: String,
    /// Its name, which is the same as long as it runs.
    pub name: String,
    /// Whatever connects here is a program of the instance's root.
    pub listener: UnixListener,
    /// Cancelled at the end of the run.
    pub closed: CancellationToken,
}

/// Whether instances of this kind and configuration are to have one.
pub(crate) fn wanted(kind: Kind, config: &Config) -> bool {
    kind == Kind::Container && config.get("security.devlxd").is_none_or(|value| parse_bool(value) != Ok(false))
}

/// Opens the socket of `instance` in `directory` and hands it to whoever answers there. It is closed with the guard.
pub(crate) fn open(directory: &Path, instance: &Instance, doors: &mpsc::UnboundedSender<Door>) -> Result<DropGuard> {
    let root = instance.volatile.get("volatile.idmap.base").and_then(|base| base.parse().ok()).unwrap_or(0);
    let listener =
        bind(directory, root).map_err(Error::io(format!("open the socket {}", directory.join(SOCKET).display())))?;
    let closed = CancellationToken::new();
    let door =
        Door { project: instance.project.clone(), name: instance.name.clone(), listener, closed: closed.clone() };
    // The daemon that stops answers nobody any more; its successor opens the socket anew.
    let _ = doors.send(door);
    Ok(closed.drop_guard())
}

/// Binds for the user `root`: what cloud-init is told may hold passwords. Under a temporary name and renamed, so that the
/// instance never finds a socket that it may not use, and that of an earlier daemon is replaced.
fn bind(directory: &Path, root: u32) -> std::io::Result<UnixListener> {
    const TEMPORARY: &str = ".sock";
    let opened = std::fs::File::open(directory)?;
    // Paths of sockets are short (unix(7)); that of a data directory need not be.
    let short = Path::new("/proc/self/fd").join(opened.as_raw_fd().to_string()).join(TEMPORARY);
    match std::fs::remove_file(&short) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&short)?;
    std::fs::set_permissions(&short, std::fs::Permissions::from_mode(0o600))?;
    chown(&short, Some(root), Some(root))?;
    std::fs::rename(&short, directory.join(SOCKET))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_have_one_unless_they_are_told_otherwise() {
        let config = |value: &str| Config::from([("security.devlxd".to_owned(), value.to_owned())]);
        assert!(wanted(Kind::Container, &Config::new()));
        assert!(wanted(Kind::Container, &config("true")));
        assert!(!wanted(Kind::Container, &config("false")));
        assert!(!wanted(Kind::VirtualMachine, &Config::new()));
    }

    #[tokio::test]
    async fn a_socket_is_replaced_in_a_directory_of_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("x".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let first = bind(&deep, 0).unwrap();
        let second = bind(&deep, 0).unwrap();
        let entries: Vec<_> = std::fs::read_dir(&deep).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(entries, [SOCKET]);
        assert_eq!(std::fs::metadata(deep.join(SOCKET)).unwrap().permissions().mode() & 0o777, 0o600);
        let _unused = first;
        let entered = std::fs::File::open(&deep).unwrap();
        let short = format!("/proc/self/fd/{}/{SOCKET}", entered.as_raw_fd());
        let (accepted, connected) = tokio::join!(second.accept(), tokio::net::UnixStream::connect(short));
        assert!(accepted.is_ok() && connected.is_ok());
    }
}
