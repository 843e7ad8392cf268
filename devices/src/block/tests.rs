use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::{Block, BlockConfig, BlockLimits};
use crate::pci::PciDevice;
use crate::rate::Limit;
use crate::saved::StateError;
use crate::test_utils::hostile::{rings, torment};
use crate::test_utils::{DATA, Driver, Function, confined, malformed_chains};
use crate::virtio::VirtioDevice;

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;
const SIZE: usize = 1 << 20;
const FLUSH: u64 = 1 << 9;

struct Rig {
    block: Block,
    driver: Driver,
    file: File,
}

fn config(file: &File, readonly: bool) -> BlockConfig {
    let limits = BlockLimits::default();
    BlockConfig { name: "t".into(), file: file.try_clone().unwrap(), readonly, serial: "disk-1".into(), limits }
}

fn rig(readonly: bool) -> Rig {
    let mut file = tempfile::tempfile().unwrap();
    let pattern: Vec<u8> = (0..SIZE).map(|at| (at / 512) as u8 ^ at as u8).collect();
    file.write_all(&pattern).unwrap();
    let mut block = Block::new(config(&file, readonly), &confined()).unwrap();
    let (driver, activation) = Driver::new(&[256], FLUSH, true);
    block.activate(activation).unwrap();
    Rig { block, driver, file }
}

impl Rig {
    /// Sends a request with `data` buffers; returns its status and the length.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u8, u32) {
        self.driver.write(HEADER, &kind.to_le_bytes());
        self.driver.write(HEADER + 4, &0u32.to_le_bytes());
        self.driver.write(HEADER + 8, &sector.to_le_bytes());
        self.driver.write(STATUS, &[0xee]);
        let chain: Vec<_> = [&[(HEADER, 16, false)], data, &[(STATUS, 1, true)]].concat();
        let len = self.driver.request(0, &chain);
        (self.driver.read(STATUS, 1)[0], len)
    }

    fn contents(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        (&self.file).seek(SeekFrom::Start(offset as u64)).unwrap();
        (&self.file).read_exact(&mut data).unwrap();
        data
    }
}

#[test]
fn data_is_read_and_written_over_several_buffers() {
    let mut rig = rig(false);
    let read = [(BUFFER, 1000, true), (BUFFER + 2000, 24, true), (BUFFER + 3000, 512, true)];
    assert_eq!(rig.request(0, 3, &read), (0, 1537));
    let expected = rig.contents(3 * 512, 1536);
    assert_eq!(rig.driver.read(BUFFER, 1000), expected[..1000]);
    assert_eq!(rig.driver.read(BUFFER + 2000, 24), expected[1000..1024]);
    assert_eq!(rig.driver.read(BUFFER + 3000, 512), expected[1024..]);

    let data: Vec<u8> = (0..1024u32).map(|at| (at * 7) as u8).collect();
    rig.driver.write(BUFFER, &data);
    assert_eq!(rig.request(1, 8, &[(BUFFER, 24, false), (BUFFER + 24, 1000, false)]), (0, 1));
    assert_eq!(rig.contents(8 * 512, 1024), data);
    assert_eq!(rig.request(4, 0, &[]), (0, 1));
}

#[test]
fn many_requests_are_served_by_one_notification() {
    let mut rig = rig(false);
    for index in 0..80u64 {
        let header = HEADER + index * 16;
        rig.driver.write(header, &[0; 8]);
        rig.driver.write(header + 8, &index.to_le_bytes());
        let at = BUFFER + 0x1000 + index * 1024;
        rig.driver.queues[0].add(&[(header, 16, false), (at, 512, true), (at + 512, 1, true)]);
    }
    rig.driver.queues[0].kick();
    for index in 0..80 {
        assert_eq!(rig.driver.wait_used(0).1, 513);
        let at = BUFFER + 0x1000 + index * 1024;
        assert_eq!(rig.driver.read(at, 512), rig.contents(index as usize * 512, 512));
    }
}

#[test]
fn impossible_requests_get_a_status() {
    let mut rig = rig(false);
    let last = (SIZE / 512) as u64 - 1;
    assert_eq!(rig.request(0, last, &[(BUFFER, 512, true)]).0, 0);
    assert_eq!(rig.request(0, last, &[(BUFFER, 1024, true)]), (1, 0));
    assert_eq!(rig.request(0, u64::MAX, &[(BUFFER, 512, true)]).0, 1);
    assert_eq!(rig.request(0, u64::MAX / 512, &[(BUFFER, 512, true)]).0, 1);
    assert_eq!(rig.request(0, 0, &[(BUFFER, 511, true)]).0, 1);
    assert_eq!(rig.request(1, last, &[(BUFFER, 1024, false)]).0, 1);
    assert_eq!(rig.request(77, 0, &[]).0, 2);
    // Neither header nor status: given back untouched.
    assert_eq!(rig.driver.request(0, &[(HEADER, 15, false), (STATUS, 1, true)]), 0);
    assert_eq!(rig.driver.request(0, &[(HEADER, 16, false)]), 0);
}

#[test]
fn a_shrunken_file_is_an_error_and_no_hang() {
    let mut rig = rig(false);
    rig.file.set_len(512).unwrap();
    assert_eq!(rig.request(0, 0, &[(BUFFER, 1024, true)]).0, 1);
}

#[test]
fn readonly_disks_refuse_changes() {
    let mut rig = rig(true);
    assert_eq!(rig.request(1, 0, &[(BUFFER, 512, false)]).0, 1);
    rig.driver.write(BUFFER, &[0; 16]);
    assert_eq!(rig.request(11, 0, &[(BUFFER, 16, false)]).0, 1);
    assert_eq!(rig.request(0, 0, &[(BUFFER, 512, true)]).0, 0);
    assert_ne!(rig.block.features() & 1 << 5, 0);
}

#[test]
fn serial_is_told_and_padded() {
    let mut rig = rig(false);
    assert_eq!(rig.request(8, 0, &[(BUFFER, 20, true)]).0, 0);
    assert_eq!(rig.driver.read(BUFFER, 20), b"disk-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(rig.request(8, 0, &[(BUFFER, 4, true)]).0, 0);
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let mut rig = rig(false);
    let blocks = rig.file.metadata().unwrap().blocks();
    rig.driver.write(BUFFER, &[range(0, 512, 0), range(1024, 512, 0)].concat());
    assert_eq!(rig.request(11, 0, &[(BUFFER, 32, false)]).0, 0);
    assert!(rig.file.metadata().unwrap().blocks() < blocks);
    rig.driver.write(BUFFER, &range(600, 2, 0));
    assert_eq!(rig.request(13, 0, &[(BUFFER, 16, false)]).0, 0);
    assert_eq!(rig.contents(600 * 512, 1024), [0; 1024]);
    assert_ne!(rig.contents(602 * 512, 512), [0; 512]);
    rig.driver.write(BUFFER, &range(602, 1, 1));
    assert_eq!(rig.request(13, 0, &[(BUFFER, 16, false)]).0, 0);
    assert_eq!(rig.contents(602 * 512, 512), [0; 512]);
    for (bytes, kind, status) in [
        (range(2047, 2, 0), 11, 1),
        (range(u64::MAX, 1, 0), 13, 1),
        (range(0, u32::MAX, 0), 13, 1),
        (range(0, 1, 1), 11, 2),
        (range(0, 1, 8), 13, 2),
    ] {
        rig.driver.write(BUFFER, &bytes);
        assert_eq!(rig.request(kind, 0, &[(BUFFER, 16, false)]).0, status);
    }
    assert_eq!(rig.request(11, 0, &[(BUFFER, 15, false)]).0, 1);
    assert_eq!(rig.request(11, 0, &[(BUFFER, 17 * 16, false)]).0, 1);
    assert_eq!(rig.request(11, 0, &[]).0, 1);
}

#[test]
fn malformed_chains_break_the_device_until_its_reset() {
    for (name, make) in malformed_chains() {
        let mut rig = rig(false);
        make(&mut rig.driver.queues[0]);
        rig.driver.queues[0].kick();
        rig.driver.wait_broken();
        rig.block.reset();
        let (driver, activation) = Driver::new(&[256], FLUSH, false);
        rig.driver = driver;
        rig.block.activate(activation).unwrap();
        assert_eq!(rig.request(0, 0, &[(BUFFER, 512, true)]), (0, 513), "after {name}");
    }
}

#[test]
fn configuration_reads_at_any_width() {
    let rig = rig(false);
    let mut all = [0xaa; 70];
    rig.block.read_config(0, &mut all);
    assert_eq!(all[..8], ((SIZE / 512) as u64).to_le_bytes());
    assert_eq!(all[60..], [0xaa; 10], "the transport zeroes the rest");
    for (offset, width) in [(0, 1), (3, 2), (7, 4), (58, 8), (61, 4), (u64::MAX, 8)] {
        rig.block.read_config(offset, &mut vec![0; width]);
    }
}

fn disk(file: &File, readonly: bool) -> Box<Block> {
    Box::new(Block::new(config(file, readonly), &confined()).unwrap())
}

/// Limits of one read and one write a minute.
fn hardly_anything() -> BlockLimits {
    let limit = Limit { bytes: NonZeroU64::new(1), operations: None };
    BlockLimits { read: limit, write: limit }
}

#[test]
fn limits_hold_requests_until_they_are_lifted() {
    let mut rig = rig(false);
    let remote = rig.block.remote();
    remote.limit(hardly_anything()).unwrap();
    assert_eq!(rig.request(0, 0, &[(BUFFER, 512, true)]).0, 0);
    rig.driver.write(HEADER, &[0; 16]);
    let read = [(HEADER, 16, false), (BUFFER, 512, true), (STATUS, 1, true)];
    let waiting = [rig.driver.queues[0].add(&read), rig.driver.queues[0].add(&read)];
    rig.driver.queues[0].kick();
    // Writes have a limit of their own, flushes have none: both overtake.
    rig.driver.write(HEADER + 0x40, &[1u64.to_le_bytes(), 9u64.to_le_bytes()].concat());
    rig.driver.request(0, &[(HEADER + 0x40, 16, false), (BUFFER + 0x1000, 512, false), (STATUS + 1, 1, true)]);
    rig.driver.write(HEADER + 0x80, &[4; 1]);
    rig.driver.request(0, &[(HEADER + 0x80, 16, false), (STATUS + 2, 1, true)]);
    remote.limit(BlockLimits::default()).unwrap();
    assert_eq!(waiting.map(|_| rig.driver.wait_used(0)), waiting.map(|head| (head, 513)));
}

#[test]
fn a_reset_forgets_what_waits_for_its_limit() {
    let mut rig = rig(false);
    let remote = rig.block.remote();
    remote.limit(hardly_anything()).unwrap();
    for _ in 0..60 {
        rig.driver.queues[0].add(&[(HEADER, 16, false), (BUFFER, 512, true), (STATUS, 1, true)]);
    }
    rig.driver.queues[0].kick();
    rig.driver.wait_used(0);
    rig.block.reset();
    let (driver, activation) = Driver::new(&[256], FLUSH, true);
    rig.driver = driver;
    remote.limit(BlockLimits::default()).unwrap();
    rig.block.activate(activation).unwrap();
    assert_eq!(rig.request(0, 0, &[(BUFFER, 512, true)]), (0, 513));
}

#[test]
fn what_waits_for_its_limit_is_carried_out_before_a_machine_is_saved() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE as u64).unwrap();
    let limited = || {
        let config = BlockConfig { limits: hardly_anything(), ..config(&file, false) };
        Box::new(Block::new(config, &confined()).unwrap())
    };
    let mut function = Function::start(limited(), FLUSH);
    for sector in 0..5u64 {
        let (header, data) = (HEADER + sector * 16, BUFFER + sector * 512);
        function.memory.write_obj(1u32, GuestAddress(header)).unwrap();
        function.memory.write_obj(sector, GuestAddress(header + 8)).unwrap();
        function.memory.write_slice(&[sector as u8 + 1; 512], GuestAddress(data)).unwrap();
        function.queues[0].add(&[(header, 16, false), (data, 512, false), (STATUS + sector, 1, true)]);
    }
    // A flush is not limited: once it is done, all before it have been taken.
    function.memory.write_obj(4u32, GuestAddress(HEADER + 0x80)).unwrap();
    let flush = function.queues[0].add(&[(HEADER + 0x80, 16, false), (STATUS + 8, 1, true)]);
    function.kick(0);
    while function.wait_used(0).0 != flush {}
    let mut function = function.move_to(limited());
    for _ in 1..5 {
        function.wait_used(0);
    }
    let mut data = vec![0; 5 * 512];
    (&file).seek(SeekFrom::Start(0)).unwrap();
    (&file).read_exact(&mut data).unwrap();
    assert!((0..5).all(|sector| data[sector * 512] == sector as u8 + 1));
}

#[test]
fn a_restored_disk_serves_what_the_saved_one_had_not() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE as u64).unwrap();
    let mut function = Function::start(disk(&file, false), FLUSH);
    let write = |function: &mut Function, sector: u64| {
        function.memory.write_obj(1u32, GuestAddress(HEADER)).unwrap();
        function.memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
        function.memory.write_slice(&[sector as u8; 512], GuestAddress(BUFFER)).unwrap();
        [(HEADER, 16, false), (BUFFER, 512, false), (STATUS, 1, true)]
    };
    let chain = write(&mut function, 3);
    assert_eq!(function.request(0, &chain), 1);
    function.save();
    let chain = write(&mut function, 4);
    function.queues[0].add(&chain);
    let mut function = function.move_to(disk(&file, false));
    assert_eq!(function.wait_used(0).1, 1);
    let chain = write(&mut function, 5);
    assert_eq!(function.request(0, &chain), 1);
    let mut data = vec![0; SIZE];
    (&file).seek(SeekFrom::Start(0)).unwrap();
    (&file).read_exact(&mut data).unwrap();
    assert_eq!((data[3 * 512], data[4 * 512], data[5 * 512], data[6 * 512]), (3, 4, 5, 0));
}

#[test]
fn a_restored_disk_may_have_grown_but_is_the_same_otherwise() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE as u64).unwrap();
    let sections = Function::start(disk(&file, false), FLUSH).save();
    let again =
        |readonly, features| Function::start(disk(&file, readonly), features).restore(disk(&file, readonly), &sections);
    file.set_len(2 * SIZE as u64).unwrap();
    let mut grown = again(false, FLUSH).unwrap();
    assert!(grown.told_of_change());
    assert_eq!(grown.configuration(), 2 * SIZE as u64 / 512);
    drop(grown);
    assert!(matches!(again(true, 0), Err(StateError::Changed { .. })));
    file.set_len(SIZE as u64 / 2).unwrap();
    let Err(error) = again(false, FLUSH) else { panic!("a smaller disk was taken") };
    assert!(error.to_string().contains("size of a disk"), "{error}");
}

#[test]
fn a_disk_grows_while_it_is_used() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE as u64).unwrap();
    let mut function = Function::start(disk(&file, false), FLUSH);
    let last = |function: &mut Function| {
        function.memory.write_obj(1u32, GuestAddress(HEADER)).unwrap();
        function.memory.write_obj(2 * SIZE as u64 / 512 - 1, GuestAddress(HEADER + 8)).unwrap();
        function.request(0, &[(HEADER, 16, false), (BUFFER, 512, false), (STATUS, 1, true)]);
        function.memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap()
    };
    assert_eq!(last(&mut function), 1);
    function.pci.look_again().unwrap();
    assert!(!function.told_of_change());
    file.set_len(2 * SIZE as u64).unwrap();
    assert_eq!(last(&mut function), 1, "the guest does not know yet");
    function.pci.look_again().unwrap();
    assert!(function.told_of_change());
    assert_eq!(function.configuration(), 2 * SIZE as u64 / 512);
    assert_eq!(last(&mut function), 0);
    // It never becomes smaller.
    file.set_len(SIZE as u64).unwrap();
    function.pci.look_again().unwrap();
    assert!(!function.told_of_change());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_rings_are_survived(rings in rings(1)) {
        let mut rig = rig(false);
        rig.block.reset();
        torment(&mut rig.block, FLUSH, &rings);
        prop_assert_eq!(rig.file.metadata().unwrap().len(), SIZE as u64, "nothing is written behind the end");
        let (driver, activation) = Driver::new(&[256], FLUSH, true);
        rig.driver = driver;
        rig.block.activate(activation).unwrap();
        prop_assert_eq!(rig.request(0, 0, &[(BUFFER, 512, true)]), (0, 513));
    }
}
