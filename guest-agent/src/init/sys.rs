//! Signals of process 1, and the requests to the kernel that give a network interface its address.

use std::{
    io,
    mem::{MaybeUninit, size_of},
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use crate::links::{self, check, udp};

/// What process 1 is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A child or an orphan ended.
    ChildEnded,
    /// The machine is to be turned off.
    PowerOff,
    /// The machine is to start anew.
    Reboot,
}

/// The signals that process 1 takes, as busybox's init knows them.
pub struct Signals(libc::sigset_t);

fn set(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is initialised by the first call, and each signal is a valid one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

impl Signals {
    /// Keeps them for [`Signals::wait`] in this thread and those it makes.
    pub fn block() -> Self {
        let set = set(&[libc::SIGCHLD, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM]);
        // SAFETY: the set lives through the call; the old one is not wanted.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        Self(set)
    }

    /// Waits for the next one.
    pub fn wait(&self) -> Event {
        loop {
            // SAFETY: the set lives through the call; what else is told of the signal is not wanted.
            match unsafe { libc::sigwaitinfo(&self.0, std::ptr::null_mut()) } {
                libc::SIGCHLD => return Event::ChildEnded,
                libc::SIGUSR1 | libc::SIGUSR2 => return Event::PowerOff,
                libc::SIGTERM => return Event::Reboot,
                // Interrupted by a signal that was not blocked.
                _ => {}
            }
        }
    }

    /// Waits for the end of a child; tells whether it came in time.
    pub fn wait_for_child(&self, time: Duration) -> bool {
        let child = set(&[libc::SIGCHLD]);
        let time =
            libc::timespec { tv_sec: time.as_secs() as libc::time_t, tv_nsec: time.subsec_nanos() as libc::c_long };
        // SAFETY: both pointers are to values that live through the call.
        unsafe { libc::sigtimedwait(&child, std::ptr::null_mut(), &time) == libc::SIGCHLD }
    }
}

/// Sends a signal to all processes but this one.
pub fn signal_all(signal: i32) {
    // SAFETY: a plain system call without pointers.
    unsafe { libc::kill(-1, signal) };
}

fn address(ip: Ipv4Addr, port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(ip).to_be() },
        sin_zero: [0; 8],
    }
}

/// A socket that speaks on one interface only, even while that has no address.
pub fn socket_on(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = udp()?;
    let (fd, one) = (socket.as_raw_fd(), 1i32);
    let address = address(Ipv4Addr::UNSPECIFIED, port);
    let length = |of: usize| of as libc::socklen_t;
    for option in [libc::SO_REUSEADDR, libc::SO_BROADCAST] {
        // SAFETY: the value lives through the call and its length is told.
        check(unsafe {
            libc::setsockopt(fd, libc::SOL_SOCKET, option, (&raw const one).cast(), length(size_of::<i32>()))
        })?;
    }
    // SAFETY: the name lives through the call and its length is told.
    check(unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            interface.as_ptr().cast(),
            length(interface.len()),
        )
    })?;
    // SAFETY: the address lives through the call and its length is told.
    check(unsafe { libc::bind(fd, (&raw const address).cast(), length(size_of::<libc::sockaddr_in>())) })?;
    Ok(socket.into())
}

fn generic(ip: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: both are plain data of the same size; this is how an IPv4 address is told in a generic one.
    unsafe { std::mem::transmute(address(ip, 0)) }
}

/// Gives an interface its address.
pub fn set_address(interface: &str, ip: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
    let mut request = links::request(interface)?;
    request.ifr_ifru.ifru_addr = generic(ip);
    links::ioctl(libc::SIOCSIFADDR, &mut request)?;
    request.ifr_ifru.ifru_addr = generic(mask);
    links::ioctl(libc::SIOCSIFNETMASK, &mut request)
}

/// Makes `router` the way to everywhere; one that is there already stays.
pub fn set_default_route(router: Ipv4Addr) -> io::Result<()> {
    // SAFETY: all zeros is a valid value of this structure of integers and pointers.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = generic(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = generic(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = generic(router);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    let socket = udp()?;
    // SAFETY: the request takes a `struct rtentry`, which lives through the call.
    match check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &route) }) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
