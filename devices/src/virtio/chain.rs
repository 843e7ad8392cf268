//! Descriptor chains as lists of guest buffers, checked once and then used without looking at the ring again.

use virtio_queue::DescriptorChain;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

use crate::Memory;

/// Most buffers of one chain. No driver makes more than its queue size; the cap bounds the work an indirect table of
/// 65,535 entries could cause, and keeps a chain within the kernel's limit for one vectored read or write.
pub const MAX_BUFFERS: usize = 1024;

/// Why a ring cannot be trusted any more. The device asks for a reset then.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The ring itself is inconsistent.
    #[error("the driver's ring is inconsistent: {0}")]
    Queue(#[from] virtio_queue::Error),
    /// Guest memory that was valid at activation is not there.
    #[error("the driver's ring is not in memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// A chain loops, leads nowhere, or points outside of memory.
    #[error("the driver made a malformed descriptor chain (head {head}): {reason}")]
    Chain {
        /// Descriptor it starts at.
        head: u16,
        /// What is wrong.
        reason: &'static str,
    },
    /// A system call of the device's loop failed.
    #[error("the device's loop failed: {0}")]
    Io(#[from] std::io::Error),
}

impl From<rustix::io::Errno> for RingError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A piece of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical address.
    pub address: GuestAddress,
    /// Length in bytes, not 0.
    pub len: usize,
}

/// Guest buffers, in order. Every segment was found to be inside guest memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buffers {
    segments: Vec<Segment>,
    len: usize,
}

impl Buffers {
    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The segments.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    fn clear(&mut self) {
        self.segments.clear();
        self.len = 0;
    }

    fn push(&mut self, segment: Segment) {
        self.len += segment.len;
        self.segments.push(segment);
    }

    /// The segments of `len` bytes from `offset`; less if there is less.
    pub fn range(&self, offset: usize, len: usize) -> impl Iterator<Item = Segment> + '_ {
        let (mut skip, mut left) = (offset, len);
        self.segments.iter().filter_map(move |segment| {
            if skip >= segment.len {
                skip -= segment.len;
                return None;
            }
            let len = left.min(segment.len - skip);
            let address = segment.address.unchecked_add(skip as u64);
            (skip, left) = (0, left - len);
            (len > 0).then_some(Segment { address, len })
        })
    }

    /// Copies from the buffers, from `offset` on, into `data`; returns how many bytes there were.
    pub fn read(&self, memory: &Memory, offset: usize, data: &mut [u8]) -> Result<usize, RingError> {
        let mut done = 0;
        for segment in self.range(offset, data.len()) {
            memory.read_slice(&mut data[done..done + segment.len], segment.address)?;
            done += segment.len;
        }
        Ok(done)
    }

    /// Copies `data` into the buffers, from `offset` on; returns how many bytes there was place for.
    pub fn write(&self, memory: &Memory, offset: usize, data: &[u8]) -> Result<usize, RingError> {
        let mut done = 0;
        for segment in self.range(offset, data.len()) {
            memory.write_slice(&data[done..done + segment.len], segment.address)?;
            done += segment.len;
        }
        Ok(done)
    }
}

/// A descriptor chain. Kept by a device and filled again for each request, so that its lists are allocated once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its first descriptor, to give it back by.
    pub head: u16,
    /// What the device may read.
    pub readable: Buffers,
    /// What the device may write.
    pub writable: Buffers,
}

impl Chain {
    /// Takes over `descriptors`, checking everything the ring implementation leaves open: that the chain has an end,
    /// that readable buffers come first, and that each buffer is in guest memory.
    pub(super) fn fill(
        &mut self,
        memory: &Memory,
        mut descriptors: DescriptorChain<&Memory>,
        queue_size: u16,
    ) -> Result<(), RingError> {
        self.head = descriptors.head_index();
        self.readable.clear();
        self.writable.clear();
        let malformed = |reason| Err(RingError::Chain { head: self.head, reason });
        if self.head >= queue_size {
            return malformed("its head is not in the table");
        }
        let mut ended = false;
        for (count, descriptor) in descriptors.by_ref().enumerate() {
            ended = !descriptor.has_next();
            if count == MAX_BUFFERS {
                return malformed("it has more than 1024 buffers");
            }
            let segment = Segment { address: descriptor.addr(), len: descriptor.len() as usize };
            if !memory.check_range(segment.address, segment.len) {
                return malformed("a buffer is not in guest memory");
            }
            match (descriptor.is_write_only(), segment.len) {
                (_, 0) => {}
                (true, _) => self.writable.push(segment),
                (false, _) if self.writable.is_empty() => self.readable.push(segment),
                (false, _) => return malformed("a readable buffer follows a writable one"),
            }
        }
        // The iterator also stops at loops, at indices outside of the table and at unreadable tables.
        if ended { Ok(()) } else { malformed("it has no end") }
    }
}
