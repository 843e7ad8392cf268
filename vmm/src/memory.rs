//! The guest's physical address space: where RAM and everything else lies, and the RAM itself.

use std::fs::File;
use std::io;

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionCollectionError,
    GuestRegionMmap,
};

/// End of the RAM below 1 MiB that kernels may use; above lie the areas firmware keeps on a PC.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// Where the firmware tables are written; the kernel is told that this area is reserved.
pub const ACPI_START: u64 = 0xe_0000;
/// End of the firmware tables' area.
pub const ACPI_END: u64 = 0xf_0000;
/// Where the generation id lies, in the reserved area behind the tables.
pub const GENERATION_ID: u64 = ACPI_END;
/// End of what firmware keeps on a PC.
pub const LEGACY_END: u64 = 0x10_0000;
/// RAM that kernels are loaded to begins here.
pub const HIGH_RAM_START: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest; what lies between is for devices.
pub const HOLE_START: u64 = 0xc000_0000;
/// First address after the hole, where RAM goes on.
pub const HOLE_END: u64 = 0x1_0000_0000;
/// Memory BARs that must lie below 4 GiB.
pub const MMIO32_START: u64 = HOLE_START;
/// Length of the window for them.
pub const MMIO32_SIZE: u64 = 0x2000_0000;
/// PCI configuration space (ECAM) of bus 0.
pub const ECAM_START: u64 = 0xe000_0000;
/// One bus.
pub const ECAM_SIZE: u64 = 0x10_0000;
/// I/O APIC, where every PC has it.
pub const IOAPIC: u32 = 0xfec0_0000;
/// Local APIC, where every PC has it.
pub const LAPIC: u32 = 0xfee0_0000;
/// Page that KVM wants for itself on Intel CPUs, and three more that follow at once ([`KVM_TSS`]).
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// See [`KVM_IDENTITY_MAP`].
pub const KVM_TSS: u64 = 0xfffb_d000;
/// Length of the window for 64-bit BARs.
pub const MMIO64_SIZE: u64 = 64 << 30;
/// The window's alignment: the guest can map it with its largest pages.
const MMIO64_ALIGN: u64 = 1 << 30;

/// The guest's RAM, as devices see it.
pub use berth_devices::Memory;

/// RAM that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// See the message.
    #[error("cannot map {size} bytes of memory for the guest: {source}; give it less or free some on the host")]
    Map {
        /// Of one region.
        size: u64,
        /// Why.
        source: vm_memory::mmap::MmapRegionError,
    },
    /// See the message.
    #[error("the file of the guest's memory cannot be used: {0}")]
    File(io::Error),
    /// See the message.
    #[error("the guest's memory of {size} bytes does not fit its address space")]
    Range {
        /// Of one region.
        size: u64,
    },
    /// See the message.
    #[error("the guest's memory regions do not fit together: {0}")]
    Layout(#[from] GuestRegionCollectionError),
    /// See the message.
    #[error(
        "{memory} bytes of memory and the device window do not fit the {bits} physical address bits of this CPU; give \
         the machine less memory"
    )]
    AddressBits {
        /// What was asked for.
        memory: u64,
        /// What the CPU has.
        bits: u8,
    },
}

/// Start and length of the guest's RAM regions, in order.
pub fn ram_ranges(memory: u64) -> Vec<(u64, u64)> {
    let below = memory.min(HOLE_START);
    let mut ranges = vec![(0, below)];
    if memory > below {
        ranges.push((HOLE_END, memory - below));
    }
    ranges
}

/// Start and length of the window for 64-bit BARs on a CPU with that many physical address bits.
pub fn mmio64_window(memory: u64, address_bits: u8) -> Result<(u64, u64), MemoryError> {
    let ram_end = ram_ranges(memory).last().map_or(0, |(start, size)| start + size).max(HOLE_END);
    let start = ram_end.next_multiple_of(MMIO64_ALIGN);
    let limit = 1u64 << address_bits.clamp(32, 52);
    // Half a window is enough for every device there is; less means that the memory asked for is out of place.
    let size = limit.saturating_sub(start).min(MMIO64_SIZE);
    if size < MMIO64_ALIGN {
        return Err(MemoryError::AddressBits { memory, bits: address_bits });
    }
    Ok((start, size))
}

/// Kind of an entry of the memory map; the numbers are those of E820 and PVH alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Usable.
    Ram = 1,
    /// Not usable.
    Reserved = 2,
}

/// An entry of the memory map the kernel is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// See [`MapKind`].
    pub kind: MapKind,
}

/// The memory map the kernel is given, in order of addresses.
pub fn memory_map(memory: u64) -> Vec<MapEntry> {
    let entry = |start: u64, end: u64, kind| MapEntry { start, size: end - start, kind };
    let mut map = vec![
        entry(0, LOW_RAM_END, MapKind::Ram),
        entry(ACPI_START, LEGACY_END, MapKind::Reserved),
        entry(HIGH_RAM_START, memory.min(HOLE_START), MapKind::Ram),
        entry(ECAM_START, ECAM_START + ECAM_SIZE, MapKind::Reserved),
    ];
    map.extend(ram_ranges(memory).into_iter().skip(1).map(|(start, size)| entry(start, start + size, MapKind::Ram)));
    map
}

/// Maps the RAM: anonymous, given pages on first use, huge ones where the host allows.
pub fn allocate(memory: u64) -> Result<Memory, MemoryError> {
    let regions = ram_ranges(memory)
        .into_iter()
        .map(|(start, size)| allocate_region(start, size))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Memory::from_regions(regions)?)
}

/// Maps RAM whose regions lie in `file` one after the other. A page is read when it is touched first, and what is written
/// never reaches the file.
pub fn map_file(memory: u64, file: &File) -> Result<Memory, MemoryError> {
    let mut offset = 0;
    let mut regions = Vec::new();
    for (start, size) in ram_ranges(memory) {
        let file = FileOffset::new(file.try_clone().map_err(MemoryError::File)?, offset);
        regions.push(map_region(start, size, Some(file))?);
        offset += size;
    }
    Ok(Memory::from_regions(regions)?)
}

fn allocate_region(start: u64, size: u64) -> Result<GuestRegionMmap<AtomicBitmap>, MemoryError> {
    map_region(start, size, None)
}

/// A region of `file`, or of anonymous memory.
fn map_region(start: u64, size: u64, file: Option<FileOffset>) -> Result<GuestRegionMmap<AtomicBitmap>, MemoryError> {
    let length = usize::try_from(size).map_err(|_| MemoryError::Range { size })?;
    let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
    let builder = MmapRegionBuilder::new(length).with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
    let builder = match file {
        Some(file) => builder.with_mmap_flags(flags).with_file_offset(file),
        None => builder.with_mmap_flags(flags | libc::MAP_ANONYMOUS),
    };
    let mapping = builder.build().map_err(|source| MemoryError::Map { size, source })?;
    // Advice only: a host without transparent huge pages, or a sandbox that forbids it, is as correct and slower.
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_DONTDUMP] {
        // SAFETY: the range is the mapping just made, and neither advice changes what it holds.
        if unsafe { libc::madvise(mapping.as_ptr().cast(), length, advice) } != 0 {
            tracing::debug!(advice, error = %io::Error::last_os_error(), "advice on guest memory refused");
        }
    }
    GuestRegionMmap::new(mapping, GuestAddress(start)).ok_or(MemoryError::Range { size })
}

/// Last RAM address below the hole, plus one.
pub fn low_end(memory: &Memory) -> u64 {
    memory.iter().next().map_or(0, |region| region.last_addr().raw_value() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vm_memory::Bytes;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_goes_on_above_the_hole() {
        assert_eq!(ram_ranges(256 << 20), vec![(0, 256 << 20)]);
        assert_eq!(ram_ranges(3 * GIB), vec![(0, 3 * GIB)]);
        assert_eq!(ram_ranges(5 * GIB), vec![(0, 3 * GIB), (4 * GIB, 2 * GIB)]);
    }

    #[test]
    fn the_window_for_bars_follows_the_memory_and_fits_the_cpu() {
        assert_eq!(mmio64_window(256 << 20, 40).unwrap(), (4 * GIB, 64 * GIB));
        assert_eq!(mmio64_window(5 * GIB + 4096, 40).unwrap(), (7 * GIB, 64 * GIB));
        assert_eq!(mmio64_window(60 * GIB, 36).unwrap(), (61 * GIB, 3 * GIB));
        assert!(mmio64_window(64 * GIB, 36).is_err());
    }

    proptest! {
        #[test]
        fn the_map_is_sorted_and_tells_all_memory_above_one_mebibyte(pages in (32u64 << 8)..(64u64 << 18)) {
            let memory = pages * 4096;
            let map = memory_map(memory);
            prop_assert!(map.windows(2).all(|pair| pair[0].start + pair[0].size <= pair[1].start));
            let ram: u64 = map.iter().filter(|e| e.kind == MapKind::Ram).map(|e| e.size).sum();
            prop_assert_eq!(ram, memory - HIGH_RAM_START + LOW_RAM_END);
        }
    }

    #[test]
    fn memory_can_be_written_to_its_ends() {
        let memory = allocate(64 << 20).unwrap();
        memory.write_obj(7u8, GuestAddress((64 << 20) - 1)).unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress((64 << 20) - 1)).unwrap(), 7);
        assert_eq!(low_end(&memory), 64 << 20);
    }
}
