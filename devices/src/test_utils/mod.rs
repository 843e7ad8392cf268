//! A fake driver on real guest memory, and fakes of the seams to the machine.

mod confinement;
mod function;
pub mod hostile;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

pub use confinement::confined;
pub use function::Function;

use crate::Memory;
use crate::pci::{MsiMessage, MsixBackend};
use crate::virtio::interrupt::{InterruptLine, SharedStatus, Source};
use crate::virtio::{Activation, ActiveQueue, Interrupt, Kicks, Start};

/// Longest a test waits for a device.
const PATIENCE: Duration = Duration::from_secs(10);
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;
/// Buffers of tests start here.
pub const DATA: u64 = 0x10_0000;
pub const MEMORY_SIZE: u64 = 4 << 20;
/// A second region, with a hole before it.
pub const HIGH: u64 = 16 << 20;

pub fn memory() -> Memory {
    let ranges = [(GuestAddress(0), MEMORY_SIZE as usize), (GuestAddress(HIGH), 1 << 20)];
    Memory::from_ranges(&ranges).unwrap()
}

pub fn event_fd() -> EventFd {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).unwrap()
}

/// Waits until `fd` is written; false when that does not happen.
pub fn wait_for(fd: &EventFd, patience: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
    let mut fds = [PollFd::from_borrowed_fd(crate::worker::event_fd(fd), PollFlags::IN)];
    let fired = poll(&mut fds, Some(&timeout)).unwrap() > 0;
    if fired {
        let _ = fd.read();
    }
    fired
}

/// Calls of a [`FakeMsix`].
#[derive(Clone, Default)]
pub struct VectorLog(Arc<Mutex<Vec<(u16, MsiMessage, bool)>>>);

impl VectorLog {
    pub fn take(&self) -> Vec<(u16, MsiMessage, bool)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub struct FakeMsix {
    fds: Vec<EventFd>,
    log: VectorLog,
}

impl FakeMsix {
    pub fn new(count: u16) -> (Box<Self>, VectorLog) {
        let log = VectorLog::default();
        (Box::new(Self { fds: (0..count).map(|_| event_fd()).collect(), log: log.clone() }), log)
    }
}

impl MsixBackend for FakeMsix {
    fn set_vector(&mut self, vector: u16, message: MsiMessage, masked: bool) -> io::Result<()> {
        self.log.0.lock().unwrap().push((vector, message, masked));
        Ok(())
    }
    fn irqfd(&self, vector: u16) -> &EventFd {
        &self.fds[usize::from(vector)]
    }
}

/// Remembers what is registered.
#[derive(Clone, Default)]
pub struct FakeKicks(pub Arc<Mutex<Vec<u64>>>);

impl Kicks for FakeKicks {
    fn register(&mut self, address: u64, _fd: &EventFd) -> io::Result<()> {
        self.0.lock().unwrap().push(address);
        Ok(())
    }
    fn unregister(&mut self, address: u64, _fd: &EventFd) -> io::Result<()> {
        self.0.lock().unwrap().retain(|known| *known != address);
        Ok(())
    }
}

/// An eventfd for each source of interrupts.
pub struct FakeLine {
    config: EventFd,
    queues: Vec<EventFd>,
}

impl InterruptLine for FakeLine {
    fn raise(&self, source: Source) {
        let fd = match source {
            Source::Config => &self.config,
            Source::Queue(index) => &self.queues[usize::from(index)],
        };
        fd.write(1).unwrap();
    }
}

/// The driver's end of one queue: rings at a fixed place of guest memory.
pub struct DriverQueue {
    index: u16,
    memory: Memory,
    base: u64,
    size: u16,
    next_descriptor: u16,
    available: u16,
    used: u16,
    kick: EventFd,
}

impl DriverQueue {
    pub fn new(memory: &Memory, index: u16, size: u16) -> Self {
        let base = 0x1000 + u64::from(index) * 0x1_0000;
        // Ask for every interrupt, whether by flag or by event index.
        let this = Self {
            index,
            memory: memory.clone(),
            base,
            size,
            next_descriptor: 0,
            available: 0,
            used: 0,
            kick: event_fd(),
        };
        memory.write_slice(&vec![0; 0xc000], GuestAddress(base)).unwrap();
        this
    }

    pub fn descriptors(&self) -> u64 {
        self.base
    }
    pub fn available_ring(&self) -> u64 {
        self.base + 0x4000
    }
    pub fn used_ring(&self) -> u64 {
        self.base + 0x8000
    }

    /// Writes descriptor `index`.
    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.memory.write_slice(&bytes, GuestAddress(self.base + u64::from(index) * 16)).unwrap();
    }

    /// Makes a chain of (address, length, writable) buffers available without notifying; returns its head.
    pub fn add(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.next_descriptor % self.size;
        for (position, (address, len, writable)) in buffers.iter().enumerate() {
            let index = (self.next_descriptor + position as u16) % self.size;
            let more = if position + 1 < buffers.len() { NEXT } else { 0 };
            let flags = more | if *writable { WRITE } else { 0 };
            self.descriptor(index, *address, *len, flags, (index + 1) % self.size);
        }
        self.next_descriptor = (self.next_descriptor + buffers.len() as u16) % self.size;
        self.publish(head);
        head
    }

    /// Makes the chain at `head` available.
    pub fn publish(&mut self, head: u16) {
        let slot = self.available_ring() + 4 + u64::from(self.available % self.size) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        self.set_available(self.available);
    }

    /// Writes the index of the available ring.
    pub fn set_available(&self, index: u16) {
        let at = GuestAddress(self.available_ring() + 2);
        self.memory.store(index, at, std::sync::atomic::Ordering::SeqCst).unwrap();
    }

    pub fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    fn used_index(&self) -> u16 {
        let at = GuestAddress(self.used_ring() + 2);
        self.memory.load(at, std::sync::atomic::Ordering::SeqCst).unwrap()
    }

    /// Takes the next used element: (head, length).
    pub fn used(&mut self) -> Option<(u16, u32)> {
        if self.used == self.used_index() {
            return None;
        }
        let slot = self.used_ring() + 4 + u64::from(self.used % self.size) * 8;
        let head: u32 = self.memory.read_obj(GuestAddress(slot)).unwrap();
        let len: u32 = self.memory.read_obj(GuestAddress(slot + 4)).unwrap();
        self.used = self.used.wrapping_add(1);
        // used_event: "interrupt me at the next one".
        let event_at = self.available_ring() + 4 + 2 * u64::from(self.size);
        self.memory.write_obj(self.used, GuestAddress(event_at)).unwrap();
        Some((head as u16, len))
    }

    /// Waits for the next used element, which `interrupt` tells of.
    pub fn wait_used(&mut self, interrupt: &EventFd) -> (u16, u32) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = self.used() {
                return used;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let queue = self.index;
            assert!(wait_for(interrupt, left), "the device did not use a buffer of queue {queue}");
        }
    }
}

/// A machine with one active device, seen from its driver.
pub struct Driver {
    pub memory: Memory,
    pub queues: Vec<DriverQueue>,
    line: Arc<FakeLine>,
    pub status: Arc<SharedStatus>,
}

impl Driver {
    /// Sets `sizes.len()` queues up; the activation goes to the device.
    pub fn new(sizes: &[u16], features: u64, event_idx: bool) -> (Self, Activation) {
        let memory = memory();
        let line = Arc::new(FakeLine { config: event_fd(), queues: sizes.iter().map(|_| event_fd()).collect() });
        let status = Arc::new(SharedStatus::default());
        let interrupt = |source| Interrupt::new(line.clone(), status.clone(), source);
        let (mut queues, mut active) = (Vec::new(), Vec::new());
        for (index, size) in (0u16..).zip(sizes) {
            let driver = DriverQueue::new(&memory, index, *size);
            let mut queue = Queue::new(*size).unwrap();
            queue.try_set_desc_table_address(GuestAddress(driver.descriptors())).unwrap();
            queue.try_set_avail_ring_address(GuestAddress(driver.available_ring())).unwrap();
            queue.try_set_used_ring_address(GuestAddress(driver.used_ring())).unwrap();
            queue.set_event_idx(event_idx);
            queue.set_ready(true);
            assert!(queue.is_valid(&memory));
            let kick = Arc::new(driver.kick.try_clone().unwrap());
            active.push(ActiveQueue::new(index, queue, kick, interrupt(Source::Queue(index))));
            queues.push(driver);
        }
        let (start, memory_of_device) = (Start::Fresh, memory.clone());
        let activation = Activation {
            start,
            memory: memory_of_device,
            features,
            queues: active,
            interrupt: interrupt(Source::Config),
        };
        (Self { memory, queues, line, status }, activation)
    }

    /// Waits for the next used element of queue `index`.
    pub fn wait_used(&mut self, index: usize) -> (u16, u32) {
        self.queues[index].wait_used(&self.line.queues[index])
    }

    /// Makes a chain available on queue `index`, notifies, and waits for it to be used; returns the length written.
    pub fn request(&mut self, index: usize, buffers: &[(u64, u32, bool)]) -> u32 {
        let head = self.queues[index].add(buffers);
        self.queues[index].kick();
        let (used, len) = self.wait_used(index);
        assert_eq!(used, head);
        len
    }

    /// Waits until the device asks for a reset.
    pub fn wait_broken(&self) {
        assert!(wait_for(&self.line.config, PATIENCE), "the device did not ask for a reset");
        assert_ne!(self.status.get() & crate::virtio::state::status::NEEDS_RESET, 0);
    }

    pub fn write(&self, address: u64, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(address)).unwrap();
    }

    pub fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(address)).unwrap();
        data
    }
}

/// Breaks a fresh ring.
pub type Breaker = fn(&mut DriverQueue);

/// What a hostile driver may do to a ring, by name.
pub fn malformed_chains() -> Vec<(&'static str, Breaker)> {
    fn publish(queue: &mut DriverQueue) {
        queue.publish(0);
    }
    vec![
        ("loop", |queue| {
            queue.descriptor(0, DATA, 16, NEXT, 1);
            queue.descriptor(1, DATA, 16, NEXT, 0);
            publish(queue);
        }),
        ("outside of memory", |queue| {
            queue.descriptor(0, HIGH * 4, 16, 0, 0);
            publish(queue);
        }),
        ("into the hole", |queue| {
            queue.descriptor(0, MEMORY_SIZE - 8, 16, 0, 0);
            publish(queue);
        }),
        ("end wraps round", |queue| {
            queue.descriptor(0, u64::MAX - 3, 16, 0, 0);
            publish(queue);
        }),
        ("writable before readable", |queue| {
            queue.descriptor(0, DATA, 16, NEXT | WRITE, 1);
            queue.descriptor(1, DATA, 16, 0, 0);
            publish(queue);
        }),
        ("next outside of the table", |queue| {
            queue.descriptor(0, DATA, 16, NEXT, 9999);
            publish(queue);
        }),
        ("head outside of the table", |queue| queue.publish(9999)),
        ("too many heads", |queue| queue.set_available(5000)),
        ("length of 4 GiB", |queue| {
            queue.descriptor(0, DATA, u32::MAX, NEXT, 1);
            queue.descriptor(1, DATA, u32::MAX, WRITE, 0);
            publish(queue);
        }),
        ("indirect in indirect", |queue| {
            let table = DATA + 0x1000;
            queue.descriptor(0, table, 16, INDIRECT, 0);
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&table.to_le_bytes());
            bytes[8..12].copy_from_slice(&16u32.to_le_bytes());
            bytes[12..14].copy_from_slice(&INDIRECT.to_le_bytes());
            queue.memory.write_slice(&bytes, GuestAddress(table)).unwrap();
            publish(queue);
        }),
        ("indirect table of odd size", |queue| {
            queue.descriptor(0, DATA, 17, INDIRECT, 0);
            publish(queue);
        }),
        ("indirect table outside of memory", |queue| {
            queue.descriptor(0, HIGH * 8, 32, INDIRECT, 0);
            publish(queue);
        }),
        ("huge indirect chain", |queue| {
            let table = HIGH;
            for index in 0..4096u64 {
                let mut bytes = [0; 16];
                bytes[..8].copy_from_slice(&DATA.to_le_bytes());
                bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
                bytes[12..14].copy_from_slice(&NEXT.to_le_bytes());
                bytes[14..].copy_from_slice(&(index as u16 + 1).to_le_bytes());
                queue.memory.write_slice(&bytes, GuestAddress(table + index * 16)).unwrap();
            }
            queue.descriptor(0, table, 4096 * 16, INDIRECT, 0);
            publish(queue);
        }),
    ]
}
