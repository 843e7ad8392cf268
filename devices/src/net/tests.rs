use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::tap::Link;
use super::{Net, NetLimits};
use crate::test_utils::hostile::{rings, torment};
use crate::test_utils::{DATA, Driver, Function, confined, malformed_chains};
use crate::virtio::VirtioDevice;

const MERGEABLE: u64 = 1 << 15;
const TSO: u64 = 1 << 7;
const MAC: [u8; 6] = [0, 0x16, 0x3e, 1, 2, 3];

/// A datagram socket keeps frames apart as a tap does.
struct Cable {
    socket: UnixDatagram,
    features: Arc<Mutex<u64>>,
}

impl AsFd for Cable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Link for Cable {
    fn set_features(&self, features: u64) -> io::Result<()> {
        *self.features.lock().unwrap() = features;
        Ok(())
    }
}

struct Rig {
    net: Net,
    driver: Driver,
    host: UnixDatagram,
    features: Arc<Mutex<u64>>,
}

fn rig(features: u64) -> Rig {
    let (host, guest) = UnixDatagram::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    host.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let seen = Arc::default();
    let cable = Cable { socket: guest, features: Arc::clone(&seen) };
    let mut net = Net::with_link("t", cable, MAC, 1500, NetLimits::default(), &confined()).unwrap();
    let (driver, activation) = Driver::new(&[256, 256], features, true);
    net.activate(activation).unwrap();
    Rig { net, driver, host, features: seen }
}

fn frame(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| if at < 12 { 0 } else { (at as u8).wrapping_mul(3) ^ seed }).collect()
}

impl Rig {
    fn receive(&self) -> Vec<u8> {
        let mut data = vec![0; 70_000];
        let len = self.host.recv(&mut data).unwrap();
        data.truncate(len);
        data
    }
}

#[test]
fn frames_are_sent() {
    let mut rig = rig(MERGEABLE | TSO);
    let sent = frame(1000, 1);
    rig.driver.write(DATA, &sent);
    assert_eq!(rig.driver.request(1, &[(DATA, 12, false), (DATA + 12, 500, false), (DATA + 512, 488, false)]), 0);
    assert_eq!(rig.receive(), sent);
    assert_eq!(*rig.features.lock().unwrap(), MERGEABLE | TSO);
    // Neither a frame nor an error.
    rig.driver.request(1, &[(DATA, 25, false)]);
    rig.driver.request(1, &[(DATA, 70_000, false)]);
    rig.driver.request(1, &[(DATA, 1000, true)]);
    rig.driver.request(1, &[(DATA, 26, false)]);
    assert_eq!(rig.receive().len(), 26);
}

#[test]
fn sending_waits_for_room() {
    let mut rig = rig(0);
    let mut queued = 0;
    rig.driver.write(DATA, &frame(1500, 2));
    for _ in 0..250 {
        rig.driver.queues[1].add(&[(DATA, 1500, false)]);
        queued += 1;
    }
    rig.driver.queues[1].kick();
    // A datagram socket takes a few only; the rest follows as the host reads.
    for _ in 0..queued {
        assert_eq!(rig.receive().len(), 1500);
        rig.driver.wait_used(1);
    }
}

#[test]
fn frames_are_received_into_one_buffer() {
    let mut rig = rig(0);
    for index in 0..4 {
        rig.driver.queues[0].add(&[(DATA + index * 2048, 12, true), (DATA + index * 2048 + 12, 1600, true)]);
    }
    rig.driver.queues[0].kick();
    for index in 0..4u64 {
        let sent = frame(600 + index as usize, index as u8);
        rig.host.send(&sent).unwrap();
        assert_eq!(rig.driver.wait_used(0).1, sent.len() as u32);
        let got = rig.driver.read(DATA + index * 2048, sent.len());
        assert_eq!(got[10..12], [1, 0]);
        assert_eq!(got[12..], sent[12..]);
    }
}

#[test]
fn large_frames_span_buffers() {
    let mut rig = rig(MERGEABLE | TSO);
    for index in 0..200 {
        rig.driver.queues[0].add(&[(DATA + index * 1024, 1000, true)]);
    }
    rig.driver.queues[0].kick();
    let mut first = 0;
    for len in [60_000, 13, 2000, 1000, 1001] {
        let sent = frame(len, len as u8);
        rig.host.send(&sent).unwrap();
        let count = len.div_ceil(1000);
        let mut got = Vec::new();
        for index in first..first + count as u64 {
            let (_, used) = rig.driver.wait_used(0);
            got.extend(rig.driver.read(DATA + index * 1024, used as usize));
        }
        first += count as u64;
        assert_eq!(got.len(), len);
        assert_eq!(got[10..12], (count as u16).to_le_bytes());
        assert_eq!(got[12..], sent[12..]);
    }
}

#[test]
fn frames_wait_for_buffers() {
    let mut rig = rig(0);
    let sent = frame(100, 9);
    rig.host.send(&sent).unwrap();
    rig.host.send(&sent).unwrap();
    for _ in 0..2 {
        rig.driver.queues[0].add(&[(DATA, 1600, true)]);
        rig.driver.queues[0].kick();
        assert_eq!(rig.driver.wait_used(0).1, 100);
    }
}

#[test]
fn small_and_unwritable_buffers_are_given_back() {
    let mut rig = rig(MERGEABLE);
    rig.driver.queues[0].add(&[(DATA, 11, true)]);
    rig.driver.queues[0].add(&[(DATA, 1600, false)]);
    for index in 0..3 {
        rig.driver.queues[0].add(&[(DATA + index * 1000, 1000, true)]);
    }
    rig.driver.queues[0].kick();
    assert_eq!(rig.driver.wait_used(0).1, 0);
    assert_eq!(rig.driver.wait_used(0).1, 0);
    rig.host.send(&frame(50, 1)).unwrap();
    assert_eq!(rig.driver.wait_used(0).1, 50);
}

#[test]
fn malformed_chains_break_the_device_until_its_reset() {
    for queue in [0, 1] {
        for (name, make) in malformed_chains() {
            let mut rig = rig(0);
            make(&mut rig.driver.queues[queue]);
            rig.driver.queues[queue].kick();
            rig.driver.wait_broken();
            rig.net.reset();
            let (driver, activation) = Driver::new(&[256, 256], 0, false);
            rig.driver = driver;
            rig.net.activate(activation).unwrap();
            rig.driver.write(DATA, &frame(60, 7));
            rig.driver.request(1, &[(DATA, 60, false)]);
            assert_eq!(rig.receive().len(), 60, "after {name} on queue {queue}");
        }
    }
}

#[test]
fn configuration_tells_address_mtu_and_link() {
    let rig = rig(0);
    let mut space = [0; 12];
    rig.net.read_config(0, &mut space);
    assert_eq!(space[..6], MAC);
    assert_eq!(space[6..], [1, 0, 1, 0, 0xdc, 5]);
    for offset in [5, 11, 12, u64::MAX] {
        rig.net.read_config(offset, &mut [0; 8]);
    }
}

/// A card and the other end of its cable.
fn card(mtu: u16) -> (Box<Net>, UnixDatagram) {
    let (host, guest) = UnixDatagram::pair().unwrap();
    guest.set_nonblocking(true).unwrap();
    host.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let cable = Cable { socket: guest, features: Arc::default() };
    (Box::new(Net::with_link("t", cable, MAC, mtu, NetLimits::default(), &confined()).unwrap()), host)
}

#[test]
fn a_restored_card_uses_the_buffers_the_saved_one_had_taken() {
    let (net, host) = card(1500);
    let mut function = Function::start(net, MERGEABLE);
    let heads: Vec<_> = (0..8u64).map(|at| function.queues[0].add(&[(DATA + at * 2048, 2048, true)])).collect();
    function.kick(0);
    host.send(&[7; 100]).unwrap();
    assert_eq!(function.wait_used(0), (heads[0], 100));
    let (net, host) = card(1500);
    let mut function = function.move_to(net);
    host.send(&[8; 100]).unwrap();
    assert_eq!(function.wait_used(0), (heads[1], 100));
    let frame = [(DATA + 0x8000, 12, false), (DATA + 0x9000, 60, false)];
    assert_eq!(function.request(1, &frame), 0);
    assert_eq!(host.recv(&mut [0; 2048]).unwrap(), 72);
    assert!(!function.broken());
}

#[test]
fn another_mtu_is_refused() {
    let sections = Function::start(card(1500).0, MERGEABLE).save();
    let Err(error) = Function::start(card(1500).0, MERGEABLE).restore(card(9000).0, &sections) else {
        panic!("it was taken")
    };
    assert!(error.to_string().contains("MTU"), "{error}");
}

#[test]
fn limits_hold_frames_until_they_are_lifted() {
    let mut rig = rig(0);
    let remote = rig.net.remote();
    let slow = NonZeroU64::new(1);
    remote.limit(NetLimits { ingress: slow, egress: slow }).unwrap();
    rig.driver.write(DATA + 0x8000, &frame(1500, 7));
    let first = rig.driver.queues[1].add(&[(DATA + 0x8000, 1500, false)]);
    let second = rig.driver.queues[1].add(&[(DATA + 0x8000, 1000, false)]);
    rig.driver.queues[1].kick();
    assert_eq!(rig.driver.wait_used(1).0, first);
    assert_eq!(rig.receive().len(), 1500);
    for index in 0..4 {
        rig.driver.queues[0].add(&[(DATA + index * 2048, 1600, true)]);
    }
    rig.driver.queues[0].kick();
    rig.host.send(&frame(100, 1)).unwrap();
    assert_eq!(rig.driver.wait_used(0).1, 100);
    rig.host.send(&frame(200, 1)).unwrap();
    // The thread has seen both and waits: it is asked something and answers with both still to be done.
    assert_eq!(rig.net.hold().len(), 2);
    rig.net.resume();
    assert_eq!((rig.driver.queues[0].used(), rig.driver.queues[1].used()), (None, None));
    remote.limit(NetLimits::default()).unwrap();
    assert_eq!(rig.driver.wait_used(0).1, 200);
    assert_eq!(rig.driver.wait_used(1).0, second);
    assert_eq!(rig.receive().len(), 1000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_rings_are_survived(rings in rings(2), features in prop_oneof![Just(0), Just(MERGEABLE), Just(MERGEABLE | TSO)]) {
        let mut rig = rig(0);
        rig.net.reset();
        for len in [12, 60, 1500] {
            rig.host.send(&frame(len, 1)).unwrap();
        }
        torment(&mut rig.net, features, &rings);
        rig.host.set_nonblocking(true).unwrap();
        while rig.host.recv(&mut [0; 10]).is_ok() {}
        rig.host.set_nonblocking(false).unwrap();
        let (driver, activation) = Driver::new(&[256, 256], 0, true);
        rig.driver = driver;
        rig.net.activate(activation).unwrap();
        rig.driver.write(DATA, &frame(60, 7));
        rig.driver.request(1, &[(DATA, 60, false)]);
        prop_assert_eq!(rig.receive().len(), 60);
    }
}
