use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::interrupt::{SharedStatus, Source};
use super::*;
use crate::Memory;
use crate::test_utils::{DATA, DriverQueue, HIGH, INDIRECT, NEXT, WRITE, event_fd, memory};

const SIZE: u16 = 16;

struct Line(vmm_sys_util::eventfd::EventFd);

impl InterruptLine for Line {
    fn raise(&self, _source: Source) {
        self.0.write(1).unwrap();
    }
}

struct Rig {
    memory: Memory,
    driver: DriverQueue,
    queue: ActiveQueue,
    irq: vmm_sys_util::eventfd::EventFd,
    chain: Chain,
}

fn rig(event_idx: bool) -> Rig {
    let memory = memory();
    let driver = DriverQueue::new(&memory, 0, SIZE);
    let mut queue = Queue::new(SIZE).unwrap();
    queue.try_set_desc_table_address(GuestAddress(driver.descriptors())).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(driver.available_ring())).unwrap();
    queue.try_set_used_ring_address(GuestAddress(driver.used_ring())).unwrap();
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    let irq = event_fd();
    let line = Arc::new(Line(irq.try_clone().unwrap()));
    let interrupt = Interrupt::new(line, Arc::<SharedStatus>::default(), Source::Queue(0));
    let queue = ActiveQueue::new(0, queue, Arc::new(event_fd()), interrupt);
    Rig { memory, driver, queue, irq, chain: Chain::default() }
}

impl Rig {
    fn pop(&mut self) -> bool {
        self.queue.pop(&self.memory, &mut self.chain).unwrap()
    }

    /// Gives `count` chains back and tells; whether the driver was interrupted.
    fn complete(&mut self, count: u16) -> bool {
        let used: Vec<_> = (0..count).map(|head| (head, 1)).collect();
        self.queue.push_all(&self.memory, &used).unwrap();
        self.queue.notify(&self.memory).unwrap();
        self.irq.read().is_ok()
    }
}

#[test]
fn chains_are_split_into_readable_and_writable() {
    let mut rig = rig(false);
    assert!(!rig.pop());
    rig.driver.add(&[(DATA, 10, false), (DATA + 100, 0, false), (DATA + 20, 5, false), (HIGH, 7, true)]);
    assert!(rig.pop());
    assert_eq!((rig.chain.head, rig.chain.readable.len(), rig.chain.writable.len()), (0, 15, 7));
    let part: Vec<_> = rig.chain.readable.range(8, 4).map(|segment| (segment.address.0, segment.len)).collect();
    assert_eq!(part, [(DATA + 8, 2), (DATA + 20, 2)]);
    assert_eq!(rig.chain.readable.range(15, 4).count(), 0);
    assert_eq!(rig.chain.readable.range(0, usize::MAX).map(|segment| segment.len).sum::<usize>(), 15);
    rig.queue.undo_pop();
    assert!(rig.pop());
    assert!(!rig.pop());
}

#[test]
fn indirect_tables_are_followed() {
    let mut rig = rig(false);
    let table = DATA + 0x800;
    let entry = |address: u64, flags: u16, next: u16| {
        [&address.to_le_bytes()[..], &9u32.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
    };
    let entries = [entry(DATA, NEXT, 1), entry(DATA + 64, WRITE, 0)].concat();
    rig.memory.write_slice(&entries, GuestAddress(table)).unwrap();
    rig.driver.descriptor(3, table, 32, INDIRECT, 0);
    rig.driver.publish(3);
    assert!(rig.pop());
    assert_eq!((rig.chain.head, rig.chain.readable.len(), rig.chain.writable.len()), (3, 9, 9));
}

#[test]
fn flags_say_whether_the_driver_wants_interrupts() {
    let mut rig = rig(false);
    assert!(rig.complete(1));
    rig.queue.notify(&rig.memory).unwrap();
    assert!(rig.irq.read().is_err(), "there was nothing new");
    rig.memory.write_obj(1u16, GuestAddress(rig.driver.available_ring())).unwrap();
    assert!(!rig.complete(1));
}

#[test]
fn event_index_says_when_the_driver_wants_interrupts() {
    let mut rig = rig(true);
    let event = GuestAddress(rig.driver.available_ring() + 4 + 2 * u64::from(SIZE));
    rig.memory.write_obj(2u16, event).unwrap();
    assert!(!rig.complete(2));
    assert!(rig.complete(1));
    assert!(!rig.complete(1));
    // Far enough to go round the ring and the 16 bits.
    for round in 0..6000u32 {
        let next = (4 + round * 12) as u16;
        rig.memory.write_obj(next.wrapping_add(11), event).unwrap();
        assert!(!rig.complete(11));
        assert!(rig.complete(1), "round {round}");
    }
}

#[test]
fn several_chains_become_visible_at_once() {
    let mut rig = rig(false);
    rig.queue.push_all(&rig.memory, &[(4, 10), (5, 20), (6, 30)]).unwrap();
    let index: u16 = rig.memory.read_obj(GuestAddress(rig.driver.used_ring() + 2)).unwrap();
    assert_eq!(index, 3);
    assert_eq!(
        [rig.driver.used(), rig.driver.used(), rig.driver.used()],
        [Some((4, 10)), Some((5, 20)), Some((6, 30))]
    );
}

#[test]
fn vectors_reach_files_and_mark_pages() {
    use vm_memory::bitmap::Bitmap;
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

    let memory = memory();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    let segment = |address, len| Segment { address: GuestAddress(address), len };
    let pieces = [segment(DATA + 1, 4), segment(HIGH, 4)];
    let vecs = IoVecs::new(&memory, pieces.into_iter()).unwrap();
    assert_eq!(vecs.len(), 8);
    vecs.read_exact_at(file.as_fd(), 1).unwrap();
    let mut data = [0; 4];
    memory.read_slice(&mut data, GuestAddress(HIGH)).unwrap();
    assert_eq!(&data, b"5678");
    let dirty = |address| {
        let region = memory.find_region(GuestAddress(address)).unwrap();
        region.bitmap().dirty_at((address - region.start_addr().0) as usize)
    };
    assert!(dirty(DATA) && dirty(HIGH) && !dirty(DATA + 0x1000));
    IoVecs::new(&memory, pieces.into_iter()).unwrap().write_all_at(file.as_fd(), 0).unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "1234567889");
    let vecs = IoVecs::new(&memory, pieces.into_iter()).unwrap();
    assert!(vecs.read_exact_at(file.as_fd(), 5).is_err(), "the file ends before");
    assert!(IoVecs::new(&memory, [segment(HIGH - 2, 4)].into_iter()).is_err());
    assert!(IoVecs::new(&memory, [segment(u64::MAX - 2, 4)].into_iter()).is_err());
}
