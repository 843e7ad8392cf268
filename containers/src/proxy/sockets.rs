//! Sockets of proxies, made on the side where they listen.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid};

use crate::error::{Context, Result};
use crate::spec::{Address, SocketOwner};

/// Listens on `address` in the namespaces of the calling process, as its user.
pub(crate) fn listen(address: &Address, owner: SocketOwner) -> Result<OwnedFd> {
    let made = match address {
        Address::Tcp(address) => TcpListener::bind(address).map(OwnedFd::from),
        Address::Udp(address) => UdpSocket::bind(address).map(OwnedFd::from),
        Address::Unix(name) => unix(name, owner),
    };
    made.with_context(|| format!("listen on {address}"))
}

/// The address of a unix socket by its name in configurations.
fn unix_address(name: &str) -> io::Result<UnixAddr> {
    match name.strip_prefix('@') {
        Some(name) => UnixAddr::from_abstract_name(name),
        None => UnixAddr::from_pathname(name),
    }
}

fn unix(name: &str, owner: SocketOwner) -> io::Result<OwnedFd> {
    let address = unix_address(name)?;
    let listener = match UnixListener::bind_addr(&address) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_dead(name, &address) => {
            std::fs::remove_file(name)?;
            UnixListener::bind_addr(&address)?
        }
        other => other?,
    };
    if name.starts_with('/') {
        rustix::fs::chownat(
            CWD,
            name,
            Some(Uid::from_raw(owner.uid)),
            Some(Gid::from_raw(owner.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        rustix::fs::chmod(name, Mode::from_raw_mode(owner.mode))?;
    }
    Ok(listener.into())
}

/// Whether a socket's file is there that nobody listens on any more.
fn is_dead(name: &str, address: &UnixAddr) -> bool {
    std::fs::symlink_metadata(name).is_ok_and(|file| file.file_type().is_socket())
        && UnixStream::connect_addr(address).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
}

/// The first line of a connection by HAProxy's PROXY protocol, version 1.
pub(super) fn greeting(client: SocketAddr, server: SocketAddr) -> String {
    let family = if client.is_ipv4() && server.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", client.ip(), server.ip(), client.port(), server.port())
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(name) => write!(f, "unix:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket").to_str().unwrap().to_owned();
        let owner = SocketOwner { uid: 0, gid: 0, mode: 0o600 };
        let first = listen(&Address::Unix(path.clone()), owner).unwrap();
        assert!(listen(&Address::Unix(path.clone()), owner).is_err());
        drop(first);
        listen(&Address::Unix(path.clone()), owner).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        assert!(listen(&Address::Unix(path), owner).is_err());
    }

    #[test]
    fn the_client_is_told() {
        let (client, server) = ("10.0.0.2:4000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
        assert_eq!(greeting(client, server), "PROXY TCP4 10.0.0.2 10.0.0.1 4000 80\r\n");
    }
}
