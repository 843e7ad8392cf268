//! The guest's network interfaces.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

const INTERFACES: &str = "/sys/class/net";
/// Ethernet in `type` of an interface (`ARPHRD_ETHER`).
const ETHERNET: &str = "1";

/// Names of the Ethernet interfaces that are devices, in the order of their places on the bus: that in which the host lists
/// them.
pub fn ethernet() -> Vec<String> {
    let Ok(entries) = fs::read_dir(INTERFACES) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut found: Vec<_> = names
        .filter(|name| hardware_address(name).is_some())
        .filter_map(|name| Some((fs::canonicalize(format!("{INTERFACES}/{name}/device")).ok()?, name)))
        .collect();
    found.sort();
    found.into_iter().map(|(_, name)| name).collect()
}

/// Hardware address of an Ethernet interface.
pub fn hardware_address(name: &str) -> Option<[u8; 6]> {
    let read = |what: &str| fs::read_to_string(format!("{INTERFACES}/{name}/{what}")).ok();
    if read("type")?.trim() != ETHERNET {
        return None;
    }
    let address = read("address")?;
    let parts: Vec<u8> = address.trim().split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    parts.try_into().ok()
}

/// Takes an interface up.
pub fn up(interface: &str) -> io::Result<()> {
    change_flags(interface, |flags| flags | libc::IFF_UP as libc::c_short)
}

/// Takes it down, which takes its addresses of IPv6 and all routes away.
pub fn down(interface: &str) -> io::Result<()> {
    change_flags(interface, |flags| flags & !(libc::IFF_UP as libc::c_short))
}

/// Gives an interface that is down another hardware address.
pub fn set_hardware_address(interface: &str, address: [u8; 6]) -> io::Result<()> {
    let mut request = request(interface)?;
    // SAFETY: all zeros is a valid value of this structure of plain integers.
    let mut generic: libc::sockaddr = unsafe { std::mem::zeroed() };
    generic.sa_family = libc::ARPHRD_ETHER;
    for (to, from) in generic.sa_data.iter_mut().zip(address) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = generic;
    ioctl(libc::SIOCSIFHWADDR, &mut request)
}

fn change_flags(interface: &str, change: impl FnOnce(libc::c_short) -> libc::c_short) -> io::Result<()> {
    let mut flags = request(interface)?;
    ioctl(libc::SIOCGIFFLAGS, &mut flags)?;
    // SAFETY: the kernel has just filled in this member.
    let now = unsafe { flags.ifr_ifru.ifru_flags };
    flags.ifr_ifru.ifru_flags = change(now);
    ioctl(libc::SIOCSIFFLAGS, &mut flags)
}

/// The error of a system call that told one.
pub fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A socket that asks for nothing, for requests that need one.
pub fn udp() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call without pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the kernel made this descriptor just now for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A request about an interface; the name ends with a zero.
pub fn request(interface: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all zeros is a valid value of this structure of integers and their unions.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// Asks the kernel something of an interface.
pub fn ioctl(number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    let socket = udp()?;
    // SAFETY: all requests of this module take a `struct ifreq`, which lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), number, request) })
}
