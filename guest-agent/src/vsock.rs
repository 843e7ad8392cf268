//! `AF_VSOCK` sockets.

use std::{
    io,
    mem::size_of,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::Command,
};

/// The host's context id.
pub const HOST: u32 = 2;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call without pointers.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    own(fd)
}

fn own(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel made this descriptor just now for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: all zeros is a valid value of this structure of integers.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    address
}

const LENGTH: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Loads the transport from the modules of the root, if it has them.
pub fn load_transport() {
    // What it tells matters not: whoever needs the transport tries again.
    let _ = Command::new("/sbin/modprobe").arg("vmw_vsock_virtio_transport").output();
}

/// Listens on `port`.
pub fn listen(port: u32) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let address = address(libc::VMADDR_CID_ANY, port);
    // SAFETY: the address lives through the call and its length is told.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), LENGTH) })?;
    // SAFETY: a plain system call without pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
    Ok(socket)
}

/// Waits for a connection; gives it with the context id of its other end.
pub fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, u32)> {
    let mut peer = address(0, 0);
    let mut length = LENGTH;
    // SAFETY: both pointers are to values that live through the call, and the length is that of the address.
    let fd =
        unsafe { libc::accept4(listener.as_raw_fd(), (&raw mut peer).cast(), &raw mut length, libc::SOCK_CLOEXEC) };
    Ok((own(fd)?, peer.svm_cid))
}

/// Connects to a port of the host.
pub fn connect(port: u32) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let address = address(HOST, port);
    // SAFETY: the address lives through the call and its length is told.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), LENGTH) })?;
    Ok(socket)
}
