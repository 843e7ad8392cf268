//! What a disk is, and how the guest sees that.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};

use crate::rate::Limit;

/// virtio counts disks in sectors of this size, whatever the disk's blocks are.
pub const SECTOR: u64 = 512;
/// Bytes of the serial number.
pub const SERIAL_LEN: usize = 20;
/// Descriptors of the queue.
pub const QUEUE_SIZE: u16 = 256;
/// Data buffers of a request: the queue less header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Ranges of one discard or write-zeroes request.
pub const MAX_RANGES: usize = 16;
/// Sectors of one range to discard: punching holes costs by extent, not by length.
const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// Sectors of one range to zero (16 MiB): zeroes may have to be written out, and a reset waits for that.
pub const MAX_ZERO_SECTORS: u32 = 1 << 15;

/// Most that a disk may do in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockLimits {
    /// Reads.
    pub read: Limit,
    /// Writes, discards and zeroing; the latter two count as a sector for each range.
    pub write: Limit,
}

/// What a disk is.
#[derive(Debug)]
pub struct BlockConfig {
    /// Name of its thread and in the log: `blk0`.
    pub name: String,
    /// The raw image or block device, open for reading, and for writing unless `readonly`.
    pub file: File,
    /// Refuse writes.
    pub readonly: bool,
    /// Serial number the guest reads (`/dev/disk/by-id/virtio-…`), cut at 20 bytes.
    pub serial: String,
    /// See [`BlockLimits`].
    pub limits: BlockLimits,
}

/// What both the device and its engine know of the disk.
#[derive(Debug, Clone)]
pub struct Geometry {
    /// One for all clones: the disk may grow.
    sectors: Arc<AtomicU64>,
    pub readonly: bool,
    pub serial: [u8; SERIAL_LEN],
}

impl Geometry {
    /// Asks the file how long it is; a part of a sector at its end is not shown.
    pub fn new(config: &BlockConfig) -> io::Result<Self> {
        let sectors = Arc::new(AtomicU64::new(sectors_of(&config.file)?));
        let mut serial = [0; SERIAL_LEN];
        let bytes = config.serial.as_bytes();
        let len = bytes.len().min(SERIAL_LEN);
        serial[..len].copy_from_slice(&bytes[..len]);
        Ok(Self { sectors, readonly: config.readonly, serial })
    }

    /// Length of the disk.
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }

    /// Shows the guest another length.
    pub fn set_sectors(&self, sectors: u64) {
        self.sectors.store(sectors, Ordering::Release);
    }

    /// Features of the disk.
    pub fn features(&self) -> u64 {
        let always = 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE;
        let by_mode = if self.readonly {
            1 << VIRTIO_BLK_F_RO
        } else {
            1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        };
        always | by_mode
    }

    /// The configuration structure, up to the fields of the features offered.
    pub fn space(&self) -> [u8; 60] {
        let mut space = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.sectors().to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &(MAX_RANGES as u32).to_le_bytes());
        // Discards may start at any sector.
        put(44, &1u32.to_le_bytes());
        put(48, &MAX_ZERO_SECTORS.to_le_bytes());
        put(52, &(MAX_RANGES as u32).to_le_bytes());
        // Zeroing may free the blocks.
        put(56, &[1]);
        space
    }
}

/// Length of an image or a block device.
pub fn sectors_of(mut file: &File) -> io::Result<u64> {
    // Requests name their offsets, so nobody minds where the file's own stands.
    Ok(file.seek(SeekFrom::End(0))? / SECTOR)
}
