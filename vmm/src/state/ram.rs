//! The RAM as a file: the regions one after the other, holes where pages are all zeros, and a last page that tells what
//! state it belongs to. Restoring maps it: a page is read when the guest touches it, and what the guest changes is its own.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use berth_devices::saved::StateError;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::SaveError;
use crate::memory::Memory;

/// Pages of which one that is all zeros is left out.
const PAGE: usize = 4096;
/// First bytes of the last page; the id follows.
const MAGIC: &[u8; 8] = b"BERTHRAM";

/// Ties the RAM to its sections: each save draws another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamId([u8; 16]);

impl RamId {
    /// A new one.
    pub fn draw() -> io::Result<Self> {
        let mut id = [0; 16];
        // So few bytes come at once and whole, once the host has any.
        getrandom(&mut id, GetRandomFlags::empty())?;
        Ok(Self(id))
    }

    fn page(self) -> [u8; PAGE] {
        let mut page = [0; PAGE];
        page[..MAGIC.len()].copy_from_slice(MAGIC);
        page[MAGIC.len()..MAGIC.len() + self.0.len()].copy_from_slice(&self.0);
        page
    }
}

/// Writes the RAM of a paused machine, piece by piece.
pub struct RamWriter {
    memory: Memory,
    file: File,
    id: RamId,
    /// Place in the file, which is the number of bytes looked at.
    done: u64,
    total: u64,
    buffer: Vec<u8>,
}

impl RamWriter {
    /// Bytes looked at in one [`step`](Self::step).
    const STEP: usize = 4 << 20;

    /// Nothing written yet; `file` is empty.
    pub fn new(memory: Memory, file: File, id: RamId) -> Result<Self, SaveError> {
        let total = memory.iter().map(GuestMemoryRegion::len).sum::<u64>();
        file.set_len(total + PAGE as u64).map_err(SaveError::Ram)?;
        Ok(Self { memory, file, id, done: 0, total, buffer: vec![0; Self::STEP] })
    }

    /// Writes the next piece; true when all is written.
    pub fn step(&mut self) -> Result<bool, SaveError> {
        let Some((address, len)) = self.piece() else {
            self.file.write_all_at(&self.id.page(), self.total).map_err(SaveError::Ram)?;
            return Ok(true);
        };
        let piece = &mut self.buffer[..len];
        let read = self.memory.read_slice(piece, address);
        read.map_err(|error| SaveError::Ram(io::Error::other(error.to_string())))?;
        for (at, run) in runs(piece) {
            self.file.write_all_at(run, self.done + at as u64).map_err(SaveError::Ram)?;
        }
        self.done += len as u64;
        Ok(false)
    }

    /// Address and length of what comes next.
    fn piece(&self) -> Option<(GuestAddress, usize)> {
        let mut skip = self.done;
        for region in self.memory.iter() {
            if skip < region.len() {
                let len = (region.len() - skip).min(Self::STEP as u64) as usize;
                return Some((region.start_addr().unchecked_add(skip), len));
            }
            skip -= region.len();
        }
        None
    }
}

/// The pieces of `bytes`, with their places, that have no page of zeros in them.
fn runs(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
    let mut at = 0;
    std::iter::from_fn(move || {
        let skipped: usize = bytes[at..].chunks(PAGE).take_while(|page| zero(page)).map(<[u8]>::len).sum();
        let start = at + skipped;
        let len: usize = bytes[start..].chunks(PAGE).take_while(|page| !zero(page)).map(<[u8]>::len).sum();
        at = start + len;
        (len > 0).then(|| (start, &bytes[start..at]))
    })
}

/// Checks that `file` holds the RAM `id` of `size` bytes.
pub fn check(file: &File, size: u64, id: RamId) -> Result<(), StateError> {
    if file.metadata()?.len() != size + PAGE as u64 {
        return Err(StateError::Damaged("the file of its RAM has the wrong length"));
    }
    let mut page = [0; PAGE];
    file.read_exact_at(&mut page, size)?;
    if page != id.page() { Err(StateError::Damaged("its RAM belongs to another state")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;
    use proptest::prelude::*;

    const SIZE: u64 = 32 << 20;

    fn written(memory: &Memory) -> (File, RamId) {
        let (file, id) = (tempfile::tempfile().unwrap(), RamId::draw().unwrap());
        let mut writer = RamWriter::new(memory.clone(), file.try_clone().unwrap(), id).unwrap();
        while !writer.step().unwrap() {}
        (file, id)
    }

    #[test]
    fn ram_comes_back_lazily_and_privately_and_zeros_take_no_space() {
        let ram = memory::allocate(SIZE).unwrap();
        let places = [0, 4095, 4096, 9 << 20, SIZE - 1];
        for (value, at) in (1u8..).zip(places) {
            ram.write_obj(value, GuestAddress(at)).unwrap();
        }
        let (file, id) = written(&ram);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
        assert!(blocks * 512 <= 8 * 4096, "{blocks} blocks");
        check(&file, SIZE, id).unwrap();
        let mapped = memory::map_file(SIZE, &file).unwrap();
        for (value, at) in (1u8..).zip(places) {
            assert_eq!(mapped.read_obj::<u8>(GuestAddress(at)).unwrap(), value);
        }
        mapped.write_obj(99u8, GuestAddress(0)).unwrap();
        let mut first = [0];
        file.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, [1], "the file keeps what was saved");
        // What was restored can be saved again.
        let (again, _) = written(&mapped);
        again.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, [99]);
    }

    #[test]
    fn other_ram_is_refused() {
        let ram = memory::allocate(SIZE).unwrap();
        let (file, id) = written(&ram);
        assert!(check(&file, SIZE, RamId::draw().unwrap()).is_err());
        assert!(check(&file, SIZE / 2, id).is_err());
        file.set_len(SIZE).unwrap();
        assert!(check(&file, SIZE, id).is_err());
    }

    proptest! {
        #[test]
        fn runs_and_zeros_make_the_whole(pages in prop::collection::vec(0u8..3, 0..20), tail in 0usize..PAGE) {
            let mut bytes: Vec<u8> = pages.iter().flat_map(|value| [*value; PAGE]).collect();
            bytes.extend(vec![0; tail]);
            let mut copy = vec![0; bytes.len()];
            for (at, run) in runs(&bytes) {
                prop_assert!(run.chunks(PAGE).all(|page| page.iter().any(|byte| *byte != 0)));
                copy[at..at + run.len()].copy_from_slice(run);
            }
            prop_assert_eq!(copy, bytes);
        }
    }
}
