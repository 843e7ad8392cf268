//! The PVH boot protocol: what an ELF kernel with the note is given.

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::{BootError, CMDLINE_START, Payload, Placed};
use crate::memory::{Memory, memory_map};

const START_INFO: u64 = 0x6000;
const MODULES: u64 = 0x6040;
const MEMORY_MAP: u64 = 0x7000;
const MAGIC: u32 = 0x336e_c578;

// The structures of the loader crate are plain C data; these are the same bytes with the trait that writes them.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Plain<T: Copy>(T);

// SAFETY: integers only, no padding: 56 bytes of 4, 4, 4, 4, 8, 8, 8, 8, 4, 4.
unsafe impl ByteValued for Plain<hvm_start_info> {}
// SAFETY: four integers of 8 bytes.
unsafe impl ByteValued for Plain<hvm_modlist_entry> {}
// SAFETY: integers of 8, 8, 4, 4 bytes.
unsafe impl ByteValued for Plain<hvm_memmap_table_entry> {}

/// Writes the start info and what it points to; returns its address.
pub fn write(memory: &Memory, payload: &Payload, initrd: Option<Placed>) -> Result<u64, BootError> {
    let map = memory_map(payload.memory_size);
    for (i, entry) in map.iter().enumerate() {
        let entry =
            hvm_memmap_table_entry { addr: entry.start, size: entry.size, type_: entry.kind as u32, reserved: 0 };
        let at = MEMORY_MAP + (i * size_of::<hvm_memmap_table_entry>()) as u64;
        memory.write_obj(Plain(entry), GuestAddress(at))?;
    }
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry { paddr: initrd.start, size: initrd.size, ..Default::default() };
        memory.write_obj(Plain(module), GuestAddress(MODULES))?;
    }
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if initrd.is_some() { MODULES } else { 0 },
        cmdline_paddr: CMDLINE_START,
        rsdp_paddr: payload.rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    memory.write_obj(Plain(info), GuestAddress(START_INFO))?;
    Ok(START_INFO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_info_points_to_the_rest() {
        let memory = crate::memory::allocate(64 << 20).unwrap();
        let payload = Payload {
            kernel: tempfile::tempfile().unwrap(),
            initrds: vec![],
            cmdline: String::new(),
            rsdp: 0xe0000,
            memory_size: 64 << 20,
        };
        let at = write(&memory, &payload, Some(Placed { start: 0x200_0000, size: 4096 })).unwrap();
        let info: Plain<hvm_start_info> = memory.read_obj(GuestAddress(at)).unwrap();
        assert_eq!((info.0.magic, info.0.nr_modules, info.0.rsdp_paddr), (MAGIC, 1, 0xe0000));
        let module: Plain<hvm_modlist_entry> = memory.read_obj(GuestAddress(info.0.modlist_paddr)).unwrap();
        assert_eq!((module.0.paddr, module.0.size), (0x200_0000, 4096));
        let last = info.0.memmap_paddr + 24 * u64::from(info.0.memmap_entries - 2);
        let ram: Plain<hvm_memmap_table_entry> = memory.read_obj(GuestAddress(last)).unwrap();
        assert_eq!((ram.0.addr, ram.0.addr + ram.0.size, ram.0.type_), (1 << 20, 64 << 20, 1));
    }
}
