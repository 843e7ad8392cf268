//! The blocks of a tar archive: headers and contents in turn.
//!
//! Written out here because the size of a member may stand in its extended header only: archives in POSIX format hold
//! files beyond 8 GiB so, such as the disks of virtual machines.

use std::io::{self, Read};

use tar::Header;

/// Bytes of a block.
const BLOCK: usize = 512;

/// Where the checksum stands in a header.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// An archive that is read block by block.
pub struct Stream<R> {
    from: R,
}

impl<R: Read> Stream<R> {
    /// The archive in `from`.
    pub fn new(from: R) -> Self {
        Self { from }
    }

    /// The next header; `None` at the end of the archive.
    pub fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            match self.from.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if header.cksum()? != checksum(header.as_bytes()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum of a header is wrong"));
        }
        Ok(Some(header))
    }

    /// The content of the member whose header was read last.
    pub fn content(&mut self, size: u64) -> io::Take<&mut dyn Read> {
        let from: &mut dyn Read = &mut self.from;
        from.take(size)
    }

    /// Passes over what fills up the last block of a content of `size` bytes that was read to its end.
    pub fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over == 0 {
            return Ok(());
        }
        self.from.read_exact(&mut [0; BLOCK][over..])
    }
}

/// The sum of all bytes, with blanks in place of the checksum.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(&block[..CHECKSUM.start]) + sum(&block[CHECKSUM.end..]) + CHECKSUM.len() as u32 * u32::from(b' ')
}
