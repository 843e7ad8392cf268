use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::packet::{HEADER, HOST, Header, STREAM, op};
use super::{Vsock, VsockConfig};
use crate::test_utils::{DATA, Function, confined};

fn device(dir: &Path, cid: u32) -> Box<Vsock> {
    let path = dir.join(format!("v{cid}"));
    let listener = UnixListener::bind(&path).unwrap();
    Box::new(Vsock::new(VsockConfig { cid, listener, path }, &confined()).unwrap())
}

fn send(function: &mut Function, cid: u64, op: u16) {
    let header = Header {
        src_cid: cid,
        dst_cid: HOST,
        src_port: 99,
        dst_port: 7,
        kind: STREAM,
        op,
        buf_alloc: 4096,
        ..Header::default()
    };
    function.memory.write_slice(&header.bytes(), GuestAddress(DATA)).unwrap();
    function.request(1, &[(DATA, HEADER as u32, false)]);
}

/// The next packet for the guest.
fn receive(function: &mut Function, at: u64) -> Header {
    function.wait_used(0);
    let mut bytes = [0; HEADER];
    function.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    Header::parse(&bytes)
}

#[test]
fn a_restored_device_tells_the_driver_that_its_connections_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (UnixListener::bind(dir.path().join("v5_7")), UnixListener::bind(dir.path().join("v6_7")));
    let (old, new) = (old.unwrap(), new.unwrap());
    let mut function = Function::start(device(dir.path(), 5), 0);
    let buffer = |index: u64| DATA + 0x1_0000 + index * 4096;
    for index in 0..8 {
        function.queues[0].add(&[(buffer(index), 4096, true)]);
    }
    let event = DATA + 0x8000;
    function.queues[2].add(&[(event, 8, true)]);
    send(&mut function, 5, op::REQUEST);
    let mut stream = old.accept().unwrap().0;
    assert_eq!(receive(&mut function, buffer(0)).op, op::RESPONSE);

    // Another context id, as a copy of the machine has.
    function.memory.write_obj(u64::MAX, GuestAddress(event)).unwrap();
    let sections = function.save();
    let mut function = function.restore(device(dir.path(), 6), &sections).unwrap();
    crate::pci::PciDevice::resume(&mut function.pci);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the host's end is closed");
    assert_eq!(function.wait_used(2).1, 4);
    assert_eq!(function.memory.read_obj::<u32>(GuestAddress(event)).unwrap(), 0, "transport reset");

    send(&mut function, 6, op::REQUEST);
    assert_eq!(receive(&mut function, buffer(1)).op, op::RESPONSE);
    let _accepted = new.accept().unwrap();
    let mut dialler = UnixStream::connect(dir.path().join("v6")).unwrap();
    dialler.write_all(b"CONNECT 1025\n").unwrap();
    assert_eq!(receive(&mut function, buffer(2)).dst_port, 1025);
}

#[test]
fn a_reset_waits_for_a_buffer_and_a_fresh_device_sends_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut function = Function::start(device(dir.path(), 5), 0);
    let head = function.queues[2].add(&[(DATA, 8, true)]);
    function.kick(2);
    function.save();
    assert_eq!(function.queues[2].used(), None);
    let other = tempfile::tempdir().unwrap();
    let mut function = function.move_to(device(other.path(), 5));
    assert_eq!(function.wait_used(2), (head, 4));
    let last = tempfile::tempdir().unwrap();
    let mut function = function.move_to(device(last.path(), 5));
    let head = function.queues[2].add(&[(DATA, 8, true)]);
    function.kick(2);
    assert_eq!(function.wait_used(2), (head, 4));
}
