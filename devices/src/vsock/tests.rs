use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::packet::{HEADER, HOST, Header, NO_RECEIVE, NO_SEND, STREAM, op};
use super::{Vsock, VsockConfig};
use crate::test_utils::hostile::{rings, torment};
use crate::test_utils::{DATA, Driver, confined, malformed_chains};
use crate::virtio::VirtioDevice;

const CID: u32 = 5;
const SIZES: &[u16] = &[256, 256, 64];
const TX: u64 = DATA;
const RX: u64 = DATA + 0x10_0000;
const RX_SIZE: u64 = 4096;
const LINE_TIMEOUT: Duration = Duration::from_millis(300);

/// A guest with the host's directory of sockets.
struct Rig {
    vsock: Vsock,
    driver: Driver,
    dir: TempDir,
    /// Buffer of each head posted.
    posted: HashMap<u16, u64>,
}

fn rig(buffers: u64) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    let listener = UnixListener::bind(&path).unwrap();
    let config = VsockConfig { cid: CID, listener, path };
    let vsock = Vsock::with_line_timeout(config, LINE_TIMEOUT, &confined()).unwrap();
    let (driver, activation) = Driver::new(SIZES, 0, true);
    let mut rig = Rig { vsock, driver, dir, posted: HashMap::new() };
    rig.vsock.activate(activation).unwrap();
    (0..buffers).for_each(|index| rig.post(RX + index * RX_SIZE));
    rig
}

impl Rig {
    fn restart(&mut self, buffers: u64) {
        self.vsock.reset();
        let (driver, activation) = Driver::new(SIZES, 0, false);
        self.driver = driver;
        self.vsock.activate(activation).unwrap();
        self.posted.clear();
        (0..buffers).for_each(|index| self.post(RX + index * RX_SIZE));
    }

    fn post(&mut self, at: u64) {
        let head = self.driver.queues[0].add(&[(at, RX_SIZE as u32, true)]);
        self.posted.insert(head, at);
        self.driver.queues[0].kick();
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir.path().join(format!("v{suffix}"))
    }

    fn dial(&self, line: &str) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(self.path("")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        BufReader::new(stream)
    }

    /// The next packet to the guest.
    fn packet(&mut self) -> (Header, Vec<u8>) {
        let (head, len) = self.driver.wait_used(0);
        let at = self.posted.remove(&head).unwrap();
        let bytes = self.driver.read(at, len as usize);
        self.post(at);
        let header = Header::parse(bytes[..HEADER].try_into().unwrap());
        assert_eq!((header.src_cid, header.dst_cid), (HOST, CID.into()));
        assert_eq!(header.len as usize, bytes.len() - HEADER);
        (header, bytes[HEADER..].to_vec())
    }

    /// The next packet with this operation; others are passed over.
    fn await_op(&mut self, wanted: u16) -> (Header, Vec<u8>) {
        loop {
            let packet = self.packet();
            if packet.0.op == wanted {
                return packet;
            }
        }
    }

    /// The end of the data may be seen before the end of everything, and is told at once then.
    fn await_both_halves(&mut self) {
        while self.await_op(op::SHUTDOWN).0.flags != NO_SEND | NO_RECEIVE {}
    }

    fn send_raw(&mut self, header: Header, data: &[u8]) {
        self.driver.write(TX, &header.bytes());
        self.driver.write(TX + HEADER as u64, data);
        let len = (HEADER + data.len()) as u32;
        self.driver.request(1, &[(TX, len, false)]);
    }

    fn send(&mut self, (host, guest): (u32, u32), op: u16, flags: u32, data: &[u8]) {
        self.send_raw(Header { op, flags, len: data.len() as u32, ..header(host, guest) }, data);
    }

    /// A connection the host dialled: the guest's end of it and the host's.
    fn connect(&mut self, port: u32) -> ((u32, u32), BufReader<UnixStream>) {
        let mut stream = self.dial(&format!("CONNECT {port}\n"));
        let (request, _) = self.await_op(op::REQUEST);
        assert_eq!(request.dst_port, port);
        let pair = (request.src_port, port);
        self.send(pair, op::RESPONSE, 0, &[]);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert_eq!(line, format!("OK {}\n", pair.0));
        (pair, stream)
    }
}

fn header(host: u32, guest: u32) -> Header {
    Header {
        src_cid: CID.into(),
        dst_cid: HOST,
        src_port: guest,
        dst_port: host,
        kind: STREAM,
        buf_alloc: 1 << 20,
        ..Header::default()
    }
}

fn read_some(stream: &mut BufReader<UnixStream>, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    stream.read_exact(&mut data).unwrap();
    data
}

fn assert_closed(stream: &mut BufReader<UnixStream>) {
    match stream.read(&mut [0; 1]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("not closed: {other:?}"),
    }
}

#[test]
fn the_host_dials_and_both_talk() {
    let mut rig = rig(8);
    let mut stream = rig.dial("CONNECT 1025\nearly");
    let (request, _) = rig.await_op(op::REQUEST);
    assert_eq!((request.dst_port, request.kind), (1025, STREAM));
    let pair = (request.src_port, 1025);
    rig.send(pair, op::RESPONSE, 0, &[]);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert_eq!(line, format!("OK {}\n", pair.0));
    assert_eq!(rig.await_op(op::RW).1, b"early");
    rig.send(pair, op::RW, 0, b"answer");
    assert_eq!(read_some(&mut stream, 6), b"answer");
    stream.get_mut().write_all(b"more").unwrap();
    assert_eq!(rig.await_op(op::RW).1, b"more");
}

#[test]
fn the_guest_dials_and_both_talk() {
    let mut rig = rig(8);
    let listener = UnixListener::bind(rig.path("_1024")).unwrap();
    let pair = (1024, 7777);
    rig.send(pair, op::REQUEST, 0, &[]);
    let (response, _) = rig.packet();
    assert_eq!((response.op, response.src_port, response.dst_port), (op::RESPONSE, 1024, 7777));
    assert!(response.buf_alloc > 0);
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    rig.send(pair, op::RW, 0, b"hello");
    assert_eq!(read_some(&mut stream, 5), b"hello");
    rig.send(pair, op::RST, 0, &[]);
    assert_closed(&mut stream);
}

#[test]
fn strangers_are_refused() {
    let mut rig = rig(8);
    for (op, pair) in [(op::REQUEST, (9, 9)), (op::RW, (1, 2)), (op::SHUTDOWN, (3, 4)), (99, (5, 6))] {
        rig.send(pair, op, 0, &[]);
        let (refusal, _) = rig.packet();
        assert_eq!((refusal.op, refusal.src_port, refusal.dst_port), (op::RST, pair.0, pair.1));
    }
    // A datagram, foreign addresses, a cut header, a refusal of nothing: no answer to the last three.
    rig.send_raw(Header { kind: 3, op: op::REQUEST, ..header(1, 1) }, &[]);
    assert_eq!(rig.packet().0.op, op::RST);
    rig.send_raw(Header { op: op::RW, src_cid: 77, ..header(1, 1) }, &[]);
    rig.send_raw(Header { op: op::RW, dst_cid: 77, ..header(1, 1) }, &[]);
    rig.driver.request(1, &[(TX, 43, false)]);
    rig.send((1, 1), op::RST, 0, &[]);
    rig.send((8, 8), op::RW, 0, &[]);
    assert_eq!(rig.packet().0.src_port, 8);
}

#[test]
fn bad_lines_are_hung_up_on() {
    let rig = rig(8);
    for line in ["CONNECT\n", "CONNECT x\n", "CONNECT +5\n", "CONNECT 4294967296\n", "GET / HTTP/1.1\n", "\n"] {
        assert_closed(&mut rig.dial(line));
    }
    assert_closed(&mut rig.dial(&"CONNECT 1".repeat(9)));
    // Silence ends too, as does half a line.
    assert_closed(&mut rig.dial(""));
    assert_closed(&mut rig.dial("CONNECT 10"));
}

#[test]
fn halves_are_closed_one_by_one() {
    let mut rig = rig(8);
    let (pair, mut stream) = rig.connect(80);
    // The host's half.
    stream.get_mut().write_all(b"last").unwrap();
    stream.get_mut().shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.await_op(op::RW).1, b"last");
    assert_eq!(rig.await_op(op::SHUTDOWN).0.flags, NO_SEND);
    // The guest still talks, then closes its own.
    rig.send(pair, op::RW, 0, b"bye");
    rig.send(pair, op::SHUTDOWN, NO_SEND, &[]);
    assert_eq!(rig.await_op(op::RST).0.src_port, pair.0);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"bye");
}

#[test]
fn the_guests_half_is_closed_first() {
    let mut rig = rig(8);
    let (pair, mut stream) = rig.connect(80);
    rig.send(pair, op::SHUTDOWN, NO_SEND, &[]);
    assert_closed(&mut stream);
    stream.get_mut().write_all(b"still here").unwrap();
    assert_eq!(rig.await_op(op::RW).1, b"still here");
    rig.send(pair, op::RW, 0, b"not allowed any more");
    assert_eq!(rig.await_op(op::RST).0.src_port, pair.0);
}

#[test]
fn the_guest_closes_everything() {
    let mut rig = rig(8);
    let (pair, mut stream) = rig.connect(80);
    rig.send(pair, op::RW, 0, b"result");
    rig.send(pair, op::SHUTDOWN, NO_SEND | NO_RECEIVE, &[]);
    assert_eq!(rig.await_op(op::RST).0.src_port, pair.0);
    assert_eq!(read_some(&mut stream, 6), b"result");
    assert_closed(&mut stream);
}

#[test]
fn a_host_program_that_goes_away_is_noticed() {
    let mut rig = rig(8);
    let (pair, stream) = rig.connect(80);
    drop(stream);
    rig.await_both_halves();
    rig.send(pair, op::RST, 0, &[]);
    // The same after a half close.
    let (pair, stream) = rig.connect(81);
    stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(rig.await_op(op::SHUTDOWN).0.flags, NO_SEND);
    drop(stream);
    rig.await_both_halves();
    rig.send(pair, op::RW, 0, b"to nobody");
    assert_eq!(rig.await_op(op::RST).0.src_port, pair.0);
}

#[test]
fn the_guests_credit_is_respected() {
    let mut rig = rig(16);
    let (pair, mut stream) = rig.connect(80);
    rig.send_raw(Header { op: op::CREDIT_UPDATE, buf_alloc: 1000, ..header(pair.0, pair.1) }, &[]);
    stream.get_mut().write_all(&[7; 1500]).unwrap();
    let mut got = 0;
    loop {
        let (header, data) = rig.packet();
        match header.op {
            op::RW => got += data.len(),
            op::CREDIT_REQUEST => break,
            other => panic!("operation {other}"),
        }
    }
    assert_eq!(got, 1000);
    rig.send_raw(Header { op: op::CREDIT_UPDATE, buf_alloc: 1000, fwd_cnt: 900, ..header(pair.0, pair.1) }, &[]);
    assert_eq!(rig.await_op(op::RW).1.len(), 500);
    // A count that makes no sense is no credit.
    rig.send_raw(Header { op: op::CREDIT_REQUEST, buf_alloc: 10, fwd_cnt: 9999, ..header(pair.0, pair.1) }, &[]);
    assert_eq!(rig.await_op(op::CREDIT_UPDATE).0.src_port, pair.0);
}

#[test]
fn a_slow_host_program_holds_the_guest_back() {
    let mut rig = rig(16);
    let (pair, mut stream) = rig.connect(80);
    // Send as the credit allows until there is none left.
    let (mut sent, mut forwarded, mut alloc) = (0u32, 0u32, 0u32);
    let block: Vec<u8> = (0..4096u32).map(|at| at as u8).collect();
    rig.send(pair, op::CREDIT_REQUEST, 0, &[]);
    loop {
        while let Some((head, _)) = rig.driver.queues[0].used() {
            let at = rig.posted.remove(&head).unwrap();
            let packet = Header::parse(rig.driver.read(at, HEADER)[..].try_into().unwrap());
            (forwarded, alloc) = (packet.fwd_cnt, packet.buf_alloc);
            rig.post(at);
        }
        if alloc > 0 && sent - forwarded + 4096 > alloc {
            break;
        }
        if alloc > 0 {
            rig.send(pair, op::RW, 0, &block);
            sent += 4096;
        }
    }
    // One more round to be sure that the last word was heard, then everything is read in order.
    let mut got = Vec::new();
    while got.len() < sent as usize {
        got.extend(read_some(&mut stream, 4096));
    }
    assert!(got.chunks(4096).all(|chunk| chunk == block));
    assert!(rig.await_op(op::CREDIT_UPDATE).0.fwd_cnt > forwarded);
}

#[test]
fn a_guest_that_ignores_its_credit_is_cut_off() {
    let mut rig = rig(16);
    let (pair, _stream) = rig.connect(80);
    let block = vec![1; 60_000];
    for _ in 0..40 {
        rig.send(pair, op::RW, 0, &block);
    }
    assert_eq!(rig.await_op(op::RST).0.src_port, pair.0);
}

#[test]
fn lying_lengths_end_the_connection() {
    for len in [1, 1000, u32::MAX] {
        let mut rig = rig(8);
        let (pair, mut stream) = rig.connect(80);
        rig.send_raw(Header { op: op::RW, len, ..header(pair.0, pair.1) }, &[]);
        assert_eq!(rig.await_op(op::RST).0.src_port, pair.0);
        assert_closed(&mut stream);
        // More data than told: the rest is not read.
        let (pair, mut stream) = rig.connect(81);
        rig.send_raw(Header { op: op::RW, len: 2, ..header(pair.0, pair.1) }, b"abcd");
        rig.send(pair, op::RW, 0, b"!");
        assert_eq!(read_some(&mut stream, 3), b"ab!");
    }
}

#[test]
fn answers_wait_for_buffers_and_hold_the_guest_back() {
    let mut rig = rig(0);
    // Without buffers, refusals pile up until the device stops reading; nothing is lost.
    rig.driver.write(TX, &Header { op: op::RW, ..header(1, 2) }.bytes());
    for round in 0..2 {
        for _ in 0..200 {
            rig.driver.queues[1].add(&[(TX, HEADER as u32, false)]);
        }
        rig.driver.queues[1].kick();
        for _ in 0..if round == 0 { 200 } else { 56 } {
            rig.driver.wait_used(1);
        }
    }
    assert_eq!(rig.driver.queues[1].used(), None);
    (0..8).for_each(|index| rig.post(RX + index * RX_SIZE));
    for _ in 0..400 {
        assert_eq!(rig.packet().0.op, op::RST);
    }
    for _ in 0..144 {
        rig.driver.wait_used(1);
    }
}

#[test]
fn small_buffers_are_given_back() {
    let mut rig = rig(0);
    rig.driver.queues[0].add(&[(RX, 44, true)]);
    rig.driver.queues[0].add(&[(RX, 100, false)]);
    rig.post(RX);
    rig.send((9, 9), op::RW, 0, &[]);
    assert_eq!(rig.driver.wait_used(0).1, 0);
    assert_eq!(rig.driver.wait_used(0).1, 0);
    assert_eq!(rig.packet().0.op, op::RST);
}

#[test]
fn hundreds_of_connections_live_side_by_side() {
    let mut rig = rig(64);
    let mut all: Vec<_> = (0..300).map(|port| rig.connect(1000 + port)).collect();
    for (pair, stream) in &mut all {
        stream.get_mut().write_all(&pair.0.to_le_bytes()).unwrap();
    }
    for _ in 0..all.len() {
        let (header, data) = rig.await_op(op::RW);
        assert_eq!(data, header.src_port.to_le_bytes());
        rig.send((header.src_port, header.dst_port), op::RW, 0, &data);
    }
    for (pair, stream) in &mut all {
        assert_eq!(read_some(stream, 4), pair.0.to_le_bytes());
    }
}

#[test]
fn there_is_a_limit_of_connections() {
    let mut rig = rig(64);
    let listener = UnixListener::bind(rig.path("_1")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (mut accepted, mut streams) = (0, Vec::new());
    for guest in 0..600 {
        rig.send((1, guest), op::REQUEST, 0, &[]);
        match rig.packet().0.op {
            op::RESPONSE => accepted += 1,
            other => assert_eq!(other, op::RST),
        }
        // The backlog is smaller than the limit.
        streams.push(listener.accept());
    }
    assert_eq!(accepted, super::mux::MAX_CONNECTIONS);
}

#[test]
fn a_reset_ends_all_connections() {
    let mut rig = rig(8);
    let (_, mut stream) = rig.connect(80);
    rig.restart(8);
    assert_closed(&mut stream);
    rig.connect(81);
}

#[test]
fn malformed_chains_break_the_device_until_its_reset() {
    for queue in [0, 1] {
        for (_, make) in malformed_chains() {
            let mut rig = rig(0);
            make(&mut rig.driver.queues[queue]);
            rig.driver.queues[queue].kick();
            if queue == 0 {
                // Buffers are taken when there is something for the guest.
                rig.send((9, 9), op::RW, 0, &[]);
            }
            rig.driver.wait_broken();
            rig.restart(8);
            rig.connect(80);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever packets a guest sends: no panic, no hang, and strangers are still answered after a reset.
    #[test]
    fn arbitrary_packets_are_survived(
        packets in prop::collection::vec(
            (0u16..9, 0u32..4, 0u32..3, 0u32..4, any::<u32>(), any::<u32>(), 0u32..200, 0usize..150),
            1..40,
        ),
    ) {
        let mut rig = rig(16);
        let _listener = UnixListener::bind(rig.path("_1")).unwrap();
        let _dialled = rig.dial("CONNECT 1\nxyz");
        for (op, host, guest, flags, buf_alloc, fwd_cnt, len, real) in packets {
            let host = if host == 3 { 1 << 30 } else { host };
            rig.send_raw(Header { op, flags, buf_alloc, fwd_cnt, len, ..header(host, guest) }, &vec![3; real]);
            while let Some((head, _)) = rig.driver.queues[0].used() {
                let at = rig.posted.remove(&head).unwrap();
                rig.post(at);
            }
        }
        rig.restart(8);
        rig.connect(80);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_rings_are_survived(rings in rings(3)) {
        let mut rig = rig(0);
        rig.vsock.reset();
        torment(&mut rig.vsock, 0, &rings);
        rig.restart(8);
        rig.connect(80);
    }
}
