//! What a guest does that goes on from a saved state.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use berth_guest::protocol::{ErrorKind, GuestError, Reply, Welcome};
use rustix::{
    fs::{CWD, Mode, OFlags},
    time::{ClockId, Timespec, clock_settime},
};

use crate::identity;

/// Most random bytes taken at once.
const MAX_ENTROPY: usize = 512;
/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of `linux/random.h`.
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
const RESEED: libc::Ioctl = 0x5207;

/// `struct rand_pool_info`.
#[repr(C)]
struct Entropy {
    bits: libc::c_int,
    bytes: libc::c_int,
    pool: [u8; MAX_ENTROPY],
}

/// Does everything, whatever fails of it.
pub fn apply(welcome: &Welcome) -> Reply {
    let steps = [("set the clock", set_clock(welcome.time_ns)), ("renew its random numbers", reseed(&welcome.entropy))];
    let mut failed: Vec<_> =
        steps.into_iter().filter_map(|(what, step)| Some(format!("cannot {what}: {}", step.err()?))).collect();
    // With random numbers of its own.
    failed.extend(welcome.identity.iter().flat_map(identity::assume));
    if failed.is_empty() {
        return Reply::Done;
    }
    Reply::Error(GuestError { kind: ErrorKind::Other, message: failed.join("; ") })
}

fn set_clock(time_ns: u64) -> io::Result<()> {
    const SECOND: u64 = 1_000_000_000;
    let time = Timespec { tv_sec: (time_ns / SECOND) as i64, tv_nsec: (time_ns % SECOND) as i64 };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

/// Gives the kernel random bytes and has it use them at once. (A kernel that knows the generation id does as much by
/// itself.)
fn reseed(bytes: &[u8]) -> io::Result<()> {
    let mut entropy = Entropy { bits: 0, bytes: 0, pool: [0; MAX_ENTROPY] };
    let len = bytes.len().min(MAX_ENTROPY);
    entropy.pool[..len].copy_from_slice(&bytes[..len]);
    (entropy.bits, entropy.bytes) = (8 * len as libc::c_int, len as libc::c_int);
    let device: OwnedFd = rustix::fs::openat(CWD, "/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let device = File::from(device);
    // SAFETY: the kernel reads the header and as many bytes of the pool as that tells.
    if unsafe { libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, &raw const entropy) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the request takes no argument.
    match unsafe { libc::ioctl(device.as_raw_fd(), RESEED) } {
        0 => Ok(()),
        // Kernels before 4.18 have no such request, and mix what was added in by themselves.
        _ if io::Error::last_os_error().raw_os_error() == Some(libc::ENOTTY) => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
