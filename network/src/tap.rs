//! Tap devices: the host's end of a virtual machine's network card.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Length of the header in front of each packet: that of virtio-net 1.0, which has `num_buffers`.
const HEADER: libc::c_int = 12;

/// Makes a tap that exists as long as the descriptor is open; fails with `ResourceBusy` if the name is taken.
pub(crate) fn open(name: &str) -> io::Result<OwnedFd> {
    let mut options = File::options();
    let file = options.read(true).write(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: `ifreq` is plain old data, for which all zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL;
    // The flags are 16 bits wide in the kernel's interface, so the upper half is cut off on purpose.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open and `request` is a valid `ifreq` that lives through the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let header = HEADER;
    // SAFETY: the descriptor is open and the kernel reads one int.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) })?;
    Ok(file.into())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
