//! Requests of the guest, and carrying them out on the file.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::Errno;
use tracing::warn;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::config::{Geometry, MAX_RANGES, MAX_ZERO_SECTORS, SECTOR};
use crate::Memory;
use crate::limit::Warnings;
use crate::virtio::{Chain, IoVecs, RingError};

/// Bytes before the data of a request.
const HEADER: usize = 16;
/// Bytes of a range to discard or to zero.
const RANGE: usize = 16;
/// Written where the file system cannot zero by itself.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// The header of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Request {
    kind: u32,
    sector: u64,
}

impl Request {
    /// Reads the header; `None` if it is cut or there is no place for the status.
    pub fn parse(memory: &Memory, chain: &Chain) -> Result<Option<Self>, RingError> {
        let mut header = [0; HEADER];
        if chain.readable.read(memory, 0, &mut header)? < HEADER || chain.writable.is_empty() {
            return Ok(None);
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        Ok(Some(Self { kind: u32::from_le_bytes([a, b, c, d]), sector: u64::from_le_bytes(sector) }))
    }

    /// What it counts for; none for what is never limited.
    pub fn cost(&self, chain: &Chain) -> Option<Cost> {
        let sent = (chain.readable.len() - HEADER) as u64;
        let (direction, bytes) = match self.kind {
            VIRTIO_BLK_T_IN => (Direction::Read, chain.writable.len() as u64 - 1),
            VIRTIO_BLK_T_OUT => (Direction::Write, sent),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => (Direction::Write, sent / RANGE as u64 * SECTOR),
            _ => return None,
        };
        Some(Cost { direction, bytes })
    }
}

/// Which limit a request falls under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
}

/// What a request counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Against which limit.
    pub direction: Direction,
    /// Bytes.
    pub bytes: u64,
}

/// How a request ended.
pub struct Outcome {
    /// Status byte.
    pub status: u8,
    /// Bytes of data written to guest memory.
    pub written: usize,
}

/// Why a request failed.
enum Failure {
    /// The guest asked for something impossible.
    Refused,
    /// The guest asked for something this disk does not do.
    Unsupported,
    /// The file failed.
    File(io::Error),
    /// Guest memory failed.
    Ring(RingError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

/// A range of sectors to discard or to zero.
struct Range {
    offset: u64,
    len: u64,
    flags: u32,
}

/// The file behind the disk.
pub struct Disk {
    /// The file.
    pub file: File,
    /// Its size and mode.
    pub geometry: Geometry,
    /// Whether each write is synced.
    pub write_through: bool,
    /// Failures of the file that may still be logged.
    pub warnings: Warnings,
}

impl Disk {
    /// Carries `request` out. Only failures of guest memory are errors; the others are statuses.
    pub fn carry_out(&self, memory: &Memory, chain: &Chain, request: &Request) -> Result<Outcome, RingError> {
        let result = match request.kind {
            VIRTIO_BLK_T_IN => self.read(memory, chain, request.sector),
            VIRTIO_BLK_T_OUT => self.write(memory, chain, request.sector).map(|()| 0),
            VIRTIO_BLK_T_FLUSH => self.sync().map(|()| 0),
            VIRTIO_BLK_T_GET_ID => self.identify(memory, chain),
            VIRTIO_BLK_T_DISCARD => self.ranges(memory, chain, 0, |range| self.discard(range)),
            VIRTIO_BLK_T_WRITE_ZEROES => {
                self.ranges(memory, chain, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, |range| self.zero(range))
            }
            _ => Err(Failure::Unsupported),
        };
        let status = match result {
            Ok(written) => return Ok(Outcome { status: VIRTIO_BLK_S_OK as u8, written }),
            Err(Failure::Ring(error)) => return Err(error),
            Err(Failure::Unsupported) => VIRTIO_BLK_S_UNSUPP,
            Err(Failure::Refused) => VIRTIO_BLK_S_IOERR,
            Err(Failure::File(error)) => {
                if self.warnings.allowed() {
                    warn!(kind = request.kind, sector = request.sector, %error, "the disk's file failed");
                }
                VIRTIO_BLK_S_IOERR
            }
        };
        Ok(Outcome { status: status as u8, written: 0 })
    }

    /// Byte offset of `len` bytes from `sector`, if they are on the disk and whole sectors.
    fn locate(&self, sector: u64, len: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(len / SECTOR).filter(|end| *end <= self.geometry.sectors());
        if !len.is_multiple_of(SECTOR) || end.is_none() {
            return Err(Failure::Refused);
        }
        Ok(sector * SECTOR)
    }

    fn writable(&self) -> Result<(), Failure> {
        if self.geometry.readonly { Err(Failure::Refused) } else { Ok(()) }
    }

    fn read(&self, memory: &Memory, chain: &Chain, sector: u64) -> Result<usize, Failure> {
        let len = chain.writable.len() - 1;
        let offset = self.locate(sector, len as u64)?;
        let vecs = IoVecs::new(memory, chain.writable.range(0, len))?;
        vecs.read_exact_at(self.file.as_fd(), offset)?;
        Ok(len)
    }

    fn write(&self, memory: &Memory, chain: &Chain, sector: u64) -> Result<(), Failure> {
        self.writable()?;
        let len = chain.readable.len() - HEADER;
        let offset = self.locate(sector, len as u64)?;
        let vecs = IoVecs::new(memory, chain.readable.range(HEADER, len))?;
        vecs.write_all_at(self.file.as_fd(), offset)?;
        if self.write_through { self.sync() } else { Ok(()) }
    }

    fn sync(&self) -> Result<(), Failure> {
        loop {
            match fdatasync(&self.file) {
                Err(Errno::INTR) => {}
                result => return Ok(result.map_err(io::Error::from)?),
            }
        }
    }

    fn identify(&self, memory: &Memory, chain: &Chain) -> Result<usize, Failure> {
        let len = (chain.writable.len() - 1).min(self.geometry.serial.len());
        Ok(chain.writable.write(memory, 0, &self.geometry.serial[..len])?)
    }

    /// Does `each` for every range of the request, after all of them were found to be good.
    fn ranges(
        &self,
        memory: &Memory,
        chain: &Chain,
        allowed_flags: u32,
        each: impl Fn(&Range) -> Result<(), Failure>,
    ) -> Result<usize, Failure> {
        self.writable()?;
        let len = chain.readable.len() - HEADER;
        if len == 0 || !len.is_multiple_of(RANGE) || len / RANGE > MAX_RANGES {
            return Err(Failure::Refused);
        }
        let mut ranges = Vec::with_capacity(len / RANGE);
        for at in (HEADER..HEADER + len).step_by(RANGE) {
            let mut bytes = [0; RANGE];
            chain.readable.read(memory, at, &mut bytes)?;
            ranges.push(self.range(bytes, allowed_flags)?);
        }
        ranges.iter().try_for_each(each)?;
        if self.write_through {
            self.sync()?;
        }
        Ok(0)
    }

    fn range(&self, bytes: [u8; RANGE], allowed_flags: u32) -> Result<Range, Failure> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
        let (len, flags) = (u64::from(word(8)) * SECTOR, word(12));
        if flags & !allowed_flags != 0 {
            return Err(Failure::Unsupported);
        }
        Ok(Range { offset: self.locate(sector, len)?, len, flags })
    }

    fn allocate(&self, how: FallocateFlags, range: &Range) -> io::Result<()> {
        if range.len == 0 {
            return Ok(());
        }
        loop {
            match fallocate(&self.file, how | FallocateFlags::KEEP_SIZE, range.offset, range.len) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    fn discard(&self, range: &Range) -> Result<(), Failure> {
        match self.allocate(FallocateFlags::PUNCH_HOLE, range) {
            // A discard is a hint; a file system without holes keeps the data.
            Err(error) if not_supported(&error) => Ok(()),
            result => Ok(result?),
        }
    }

    fn zero(&self, range: &Range) -> Result<(), Failure> {
        if range.len > u64::from(MAX_ZERO_SECTORS) * SECTOR {
            return Err(Failure::Refused);
        }
        let unmap = range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        let how = if unmap { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE };
        match self.allocate(how, range) {
            Err(error) if not_supported(&error) => Ok(self.write_zeroes(range)?),
            result => Ok(result?),
        }
    }

    fn write_zeroes(&self, range: &Range) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let mut done = 0;
        while done < range.len {
            let len = (range.len - done).min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..len as usize], range.offset + done)?;
            done += len;
        }
        Ok(())
    }
}

fn not_supported(error: &io::Error) -> bool {
    // EINVAL too: some block devices answer that.
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL))
}
