//! Placing the initrds.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress};

use super::{BootError, Placed};
use crate::memory::{HIGH_RAM_START, Memory, low_end};

/// Kernels look for the next archive of a concatenation at multiples of four bytes, and their authors pad to blocks.
const PADDING: u64 = 512;
const PAGE: u64 = 4096;

/// Copies the initrds one after the other to the top of the RAM below the hole and below `limit`, not below `floor`.
/// `None` if there are none.
pub fn load(memory: &Memory, initrds: &[File], floor: u64, limit: u64) -> Result<Option<Placed>, BootError> {
    let mut sizes = Vec::with_capacity(initrds.len());
    for (index, mut file) in initrds.iter().enumerate() {
        sizes.push(file.seek(SeekFrom::End(0)).map_err(|source| BootError::ReadInitrd { index, source })?);
    }
    let size =
        sizes.iter().fold(0u64, |sum, size| sum.saturating_add(size.saturating_add(PADDING - 1)) / PADDING * PADDING);
    if size == 0 {
        return Ok(None);
    }
    let top = low_end(memory).min(limit.saturating_add(1));
    let too_small =
        || BootError::TooSmall { kernel: floor.saturating_sub(HIGH_RAM_START), initrd: size, memory: low_end(memory) };
    let start = top.checked_sub(size).ok_or_else(too_small)? / PAGE * PAGE;
    if start < floor {
        return Err(too_small());
    }
    let mut at = start;
    for (index, (file, length)) in initrds.iter().zip(&sizes).enumerate() {
        copy(memory, at, file, *length).map_err(|source| BootError::ReadInitrd { index, source })?;
        // The memory is fresh, so the padding is zero already.
        at += length.next_multiple_of(PADDING);
    }
    Ok(Some(Placed { start, size }))
}

fn copy(memory: &Memory, start: u64, mut file: &File, length: u64) -> std::io::Result<()> {
    file.rewind()?;
    let mut reader = file.try_clone()?;
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut reader, length as usize)
        .map_err(|e| std::io::Error::other(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(length: usize, byte: u8) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![byte; length]).unwrap();
        file
    }

    #[test]
    fn initrds_follow_each_other_padded() {
        let memory = crate::memory::allocate(32 << 20).unwrap();
        let placed = load(&memory, &[file(700, 1), file(512, 2), file(1, 3)], 16 << 20, u64::MAX).unwrap().unwrap();
        assert_eq!(placed.size, 1024 + 512 + 512);
        assert_eq!(placed.start % 4096, 0);
        let at = |offset: u64| memory.read_obj::<u8>(GuestAddress(placed.start + offset)).unwrap();
        assert_eq!([at(0), at(699), at(700), at(1024), at(1535), at(1536), at(1537)], [1, 1, 0, 2, 2, 3, 0]);
        assert!(placed.start + placed.size <= 32 << 20);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let memory = crate::memory::allocate(32 << 20).unwrap();
        assert_eq!(load(&memory, &[], 0, u64::MAX).unwrap(), None);
        let error = load(&memory, &[file(2 << 20, 1)], 31 << 20, u64::MAX).unwrap_err();
        assert!(matches!(error, BootError::TooSmall { initrd: 2_097_152, .. }), "{error}");
        let placed = load(&memory, &[file(4096, 1)], 0, (8 << 20) - 1).unwrap().unwrap();
        assert!(placed.start + placed.size <= 8 << 20);
    }
}
