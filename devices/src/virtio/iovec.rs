//! Vectored system calls straight on guest memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use vm_memory::GuestMemoryBackend;
use vm_memory::bitmap::Bitmap;

use super::chain::{RingError, Segment};
use crate::Memory;

/// Pieces of guest memory as the kernel takes them. Tied to the memory they point into.
pub struct IoVecs<'m> {
    memory: &'m Memory,
    segments: Vec<Segment>,
    vecs: Vec<libc::iovec>,
    len: usize,
}

impl<'m> IoVecs<'m> {
    /// The pieces `segments`; an error if one is not in guest memory.
    pub fn new(memory: &'m Memory, segments: impl Iterator<Item = Segment>) -> Result<Self, RingError> {
        let expected = segments.size_hint().1.unwrap_or_default();
        let (vecs, known) = (Vec::with_capacity(expected), Vec::with_capacity(expected));
        let mut this = Self { memory, segments: known, vecs, len: 0 };
        for segment in segments {
            for slice in memory.get_slices(segment.address, segment.len) {
                let slice = slice?;
                let base = slice.ptr_guard_mut().as_ptr().cast();
                this.vecs.push(libc::iovec { iov_base: base, iov_len: slice.len() });
            }
            this.len += segment.len;
            this.segments.push(segment);
        }
        Ok(this)
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Drops the first `count` bytes.
    fn advance(&mut self, count: usize) {
        self.len -= count;
        let mut left = count;
        self.vecs.retain_mut(|vec| {
            let step = left.min(vec.iov_len);
            left -= step;
            vec.iov_len -= step;
            vec.iov_base = vec.iov_base.cast::<u8>().wrapping_add(step).cast();
            vec.iov_len > 0
        });
    }

    fn count(&self) -> libc::c_int {
        self.vecs.len().min(libc::UIO_MAXIOV as usize) as libc::c_int
    }

    /// Marks the first `count` bytes as written by the device.
    fn mark_dirty(&self, count: usize) {
        let mut left = count;
        for segment in &self.segments {
            let len = left.min(segment.len);
            for slice in self.memory.get_slices(segment.address, len).flatten() {
                slice.bitmap().mark_dirty(0, slice.len());
            }
            left -= len;
            if left == 0 {
                return;
            }
        }
    }

    /// One `readv` of `fd` into guest memory.
    pub fn read_from(&self, fd: impl AsFd) -> io::Result<usize> {
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: the vectors point into guest memory that `self.memory` keeps mapped, and no Rust reference to that
        // memory exists anywhere; the kernel writes it like a device would.
        let done = retry(|| unsafe { libc::readv(fd, self.vecs.as_ptr(), self.count()) })?;
        self.mark_dirty(done);
        Ok(done)
    }

    /// One `writev` of guest memory to `fd`.
    pub fn write_to(&self, fd: impl AsFd) -> io::Result<usize> {
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: as in `read_from`; the kernel only reads.
        retry(|| unsafe { libc::writev(fd, self.vecs.as_ptr(), self.count()) })
    }

    /// One `sendmsg` of guest memory to the socket `fd`, without SIGPIPE.
    pub fn send_to(&self, fd: impl AsFd) -> io::Result<usize> {
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: an all-zero msghdr is a valid one without name, data and control parts.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.vecs.as_ptr().cast_mut();
        message.msg_iovlen = self.count() as _;
        // SAFETY: as in `read_from`; `message` refers to `self.vecs`, which the kernel only reads.
        retry(|| unsafe { libc::sendmsg(fd, &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) })
    }

    /// Fills all of guest memory's pieces from the file `fd` at `offset`; a file that ends before is an error.
    pub fn read_exact_at(mut self, fd: BorrowedFd<'_>, mut offset: u64) -> io::Result<()> {
        let total = self.len;
        let result = self.each_at(&mut offset, |vecs, count, offset| {
            // SAFETY: as in `read_from`.
            unsafe { libc::preadv(fd.as_raw_fd(), vecs, count, offset) }
        });
        self.mark_dirty(total);
        result
    }

    /// Writes all of guest memory's pieces to the file `fd` at `offset`.
    pub fn write_all_at(mut self, fd: BorrowedFd<'_>, mut offset: u64) -> io::Result<()> {
        self.each_at(&mut offset, |vecs, count, offset| {
            // SAFETY: as in `write_to`.
            unsafe { libc::pwritev(fd.as_raw_fd(), vecs, count, offset) }
        })
    }

    fn each_at(
        &mut self,
        offset: &mut u64,
        call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> isize,
    ) -> io::Result<()> {
        while self.len > 0 {
            let at = libc::off_t::try_from(*offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            let done = retry(|| call(self.vecs.as_ptr(), self.count(), at))?;
            if done == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            *offset += done as u64;
            self.advance(done);
        }
        Ok(())
    }
}

/// Repeats a system call that a signal interrupted.
fn retry(call: impl Fn() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(done) = usize::try_from(call()) {
            return Ok(done);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
