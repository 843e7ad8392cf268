//! The host's end: a tap device, or something like it in tests.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
};

use super::config::HEADER;

/// Request that tells a tap what its reader can take.
pub(crate) const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
/// Virtio feature and the tap's flag for "the reader can take that".
const OFFLOADS: [(u32, u32); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, 1),
    (VIRTIO_NET_F_GUEST_TSO4, 2),
    (VIRTIO_NET_F_GUEST_TSO6, 4),
    (VIRTIO_NET_F_GUEST_ECN, 8),
];

/// Where frames go to and come from, one in each `readv` and `writev`, with a `virtio_net_hdr_v1` before it.
pub trait Link: AsFd + Send + 'static {
    /// The guest negotiated `features`: send it only what it can take.
    fn set_features(&self, features: u64) -> io::Result<()>;
}

/// A tap device.
pub struct Tap(OwnedFd);

impl Tap {
    /// Makes `fd` non-blocking and sets the size of the header.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        let size = HEADER as libc::c_int;
        // SAFETY: the request reads one int at the address given.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &size) })?;
        Ok(Self(fd))
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link for Tap {
    fn set_features(&self, features: u64) -> io::Result<()> {
        let wanted = OFFLOADS.iter().filter(|(feature, _)| features & 1 << feature != 0);
        let mut flags = wanted.fold(0, |flags, (_, flag)| flags | flag);
        // Segments need checksums; a guest that says otherwise gets neither.
        if flags & 1 == 0 {
            flags = 0;
        }
        // SAFETY: the request takes its argument by value.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
