//! The card on a real tap device, in a network namespace of the test's thread that goes away with it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{Net, NetConfig, NetLimits};
use crate::test_utils::{DATA, Driver, confined};
use crate::virtio::VirtioDevice;

/// Local experimental EtherType: no other frame in the namespace has it.
const ETHERTYPE: u16 = 0x88b5;
/// MRG_RXBUF, checksums and segments in both directions.
const FEATURES: u64 = 1 << 15 | 1 << 0 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12;

fn check(result: i32) -> i32 {
    assert!(result >= 0, "{}", io::Error::last_os_error());
    result
}

/// A new tap device that is up, and its index.
fn tap() -> io::Result<(File, i32)> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an all-zero ifreq is valid; the requests below read and write this one only.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b't' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    // SAFETY: as above.
    if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: makes a descriptor that is owned from here on.
    let socket = unsafe { OwnedFd::from_raw_fd(check(libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0))) };
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    // SAFETY: as above.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) });
    // SAFETY: as above; the second request fills the index that is read.
    let index = unsafe {
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &mut request));
        request.ifr_ifru.ifru_ifindex
    };
    Ok((tun, index))
}

/// A packet socket on interface `index`.
fn host(index: i32) -> File {
    let protocol = i32::from(ETHERTYPE.to_be());
    // SAFETY: makes a descriptor that is owned from here on.
    let socket = unsafe { File::from_raw_fd(check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol))) };
    // SAFETY: an all-zero address is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETHERTYPE.to_be();
    address.sll_ifindex = index;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address and its length belong together.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) });
    socket
}

fn exchange() {
    use std::io::{Read, Write};

    // SAFETY: only this thread's network namespace changes; it shares nothing that depends on it.
    if unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.is_err() {
        eprintln!("not run: this test needs the right to make a network namespace");
        return;
    }
    let Ok((tap, index)) = tap() else {
        eprintln!("not run: this test needs /dev/net/tun");
        return;
    };
    let mut host = host(index);
    let (name, mac, limits) = ("t".into(), [2, 0, 0, 0, 0, 1], NetLimits::default());
    let config = NetConfig { name, tap: tap.into(), mac, mtu: 1500, limits };
    let mut net = Net::new(config, &confined()).unwrap();
    let (mut driver, activation) = Driver::new(&[256, 256], FEATURES, true);
    net.activate(activation).unwrap();

    let ethernet = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &ETHERTYPE.to_be_bytes(), &[0x5a; 50]].concat();
    driver.write(DATA, &[&[0; 12], &ethernet[..]].concat());
    driver.request(1, &[(DATA, 12 + ethernet.len() as u32, false)]);
    let mut got = vec![0; 2000];
    let len = host.read(&mut got).unwrap();
    assert_eq!(got[..len], ethernet);

    for buffer in 0..100 {
        driver.queues[0].add(&[(DATA + 0x1_0000 + buffer * 0x1000, 0x1000, true)]);
    }
    driver.queues[0].kick();
    host.write_all(&ethernet).unwrap();
    // The kernel's own frames (router solicitations and the like) may come between.
    let mut buffer = DATA + 0x1_0000;
    loop {
        let len = driver.wait_used(0).1 as usize;
        let frame = driver.read(buffer, len);
        assert_eq!(frame[10..12], [1, 0]);
        if frame[24..26] == ETHERTYPE.to_be_bytes() {
            assert_eq!(frame[12..], ethernet);
            break;
        }
        buffer += 0x1000;
    }
}

#[test]
fn frames_pass_a_real_tap() {
    std::thread::spawn(exchange).join().unwrap();
}
