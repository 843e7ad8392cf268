//! Linux's 64-bit boot protocol: what a bzImage is given (Documentation/arch/x86/boot.rst).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::{BootError, CMDLINE_START, Payload, Placed};
use crate::memory::{HIGH_RAM_START, Memory, low_end, memory_map};

const ZERO_PAGE: u64 = 0x7000;
const HEADER_OFFSET: u64 = 0x1f1;
const SECTOR: u64 = 512;
/// Sectors of the real mode part if the header tells none.
const DEFAULT_SETUP_SECTORS: u64 = 4;
/// First protocol that has the fields used here.
const VERSION_2_12: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
/// The 64-bit entry's place in the loaded image.
const ENTRY_64_OFFSET: u64 = 0x200;
/// "Undefined" boot loader.
const LOADER_UNDEFINED: u8 = 0xff;

// The crate's structures are plain C data; these are the same bytes with the trait that reads and writes them.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Plain<T: Copy>(T);

// SAFETY: a packed structure of integers and arrays of them.
unsafe impl ByteValued for Plain<setup_header> {}
// SAFETY: a packed structure of integers and arrays of them.
unsafe impl ByteValued for Plain<boot_params> {}

/// Where a kernel was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Its 64-bit entry.
    pub entry: u64,
    /// End of the memory it needs to unpack itself.
    pub end: u64,
}

/// Reads the header of a bzImage.
pub fn read_header(kernel: &mut (impl Read + Seek)) -> Result<setup_header, BootError> {
    kernel.seek(SeekFrom::Start(HEADER_OFFSET)).map_err(BootError::ReadKernel)?;
    let mut header = Plain(setup_header::default());
    kernel.read_exact(header.as_mut_slice()).map_err(BootError::ReadKernel)?;
    let (version, flags) = (header.0.version, header.0.xloadflags);
    if version < VERSION_2_12 || flags & XLF_KERNEL_64 == 0 {
        return Err(BootError::No64Bit);
    }
    Ok(header.0)
}

/// Loads the protected mode part of a bzImage to 1 MiB.
pub fn load_kernel(memory: &Memory, kernel: &File, header: &setup_header) -> Result<Loaded, BootError> {
    let sectors = match header.setup_sects {
        0 => DEFAULT_SETUP_SECTORS,
        n => u64::from(n),
    };
    let offset = (sectors + 1) * SECTOR;
    let mut reader = kernel.try_clone().map_err(BootError::ReadKernel)?;
    let length = reader.seek(SeekFrom::End(0)).map_err(BootError::ReadKernel)?;
    let size = length.checked_sub(offset).ok_or(BootError::UnknownFormat)?;
    let needed = size.max(u64::from(header.init_size));
    // Kernels that are not relocatable run at their preferred address, whatever the bootloader does: leave room.
    let pref_address = header.pref_address;
    let end = HIGH_RAM_START.max(pref_address).saturating_add(needed);
    if end > low_end(memory) {
        return Err(BootError::TooSmall { kernel: needed, initrd: 0, memory: low_end(memory) });
    }
    reader.seek(SeekFrom::Start(offset)).map_err(BootError::ReadKernel)?;
    memory.read_exact_volatile_from(GuestAddress(HIGH_RAM_START), &mut reader, size as usize)?;
    Ok(Loaded { entry: HIGH_RAM_START + ENTRY_64_OFFSET, end })
}

/// Writes the zero page and returns its address.
pub fn write_zero_page(
    memory: &Memory,
    payload: &Payload,
    header: setup_header,
    initrd: Option<Placed>,
) -> Result<u64, BootError> {
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: payload.rsdp, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = CMDLINE_START as u32;
    if let Some(initrd) = initrd {
        // Both fit: initrds lie below 4 GiB.
        params.hdr.ramdisk_image = initrd.start as u32;
        params.hdr.ramdisk_size = initrd.size as u32;
    }
    let map = memory_map(payload.memory_size);
    params.e820_entries = map.len() as u8;
    for (i, entry) in map.iter().enumerate() {
        params.e820_table[i] = boot_e820_entry { addr: entry.start, size: entry.size, r#type: entry.kind as u32 };
    }
    memory.write_obj(Plain(params), GuestAddress(ZERO_PAGE))?;
    Ok(ZERO_PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn image(payload: usize) -> File {
        let header = setup_header {
            setup_sects: 1,
            boot_flag: 0xaa55,
            header: 0x5372_6448,
            version: 0x20f,
            xloadflags: XLF_KERNEL_64,
            init_size: 4 << 20,
            pref_address: 16 << 20,
            initrd_addr_max: 0x7fff_ffff,
            ..Default::default()
        };
        let mut bytes = vec![0; 1024 + payload];
        bytes[0x1f1..0x1f1 + size_of::<setup_header>()].copy_from_slice(Plain(header).as_slice());
        bytes[1024..].fill(0x90);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    fn payload(kernel: File) -> Payload {
        Payload { kernel, initrds: vec![], cmdline: "quiet".into(), rsdp: 0xe0000, memory_size: 64 << 20 }
    }

    #[test]
    fn a_kernel_finds_everything_in_its_zero_page() {
        let memory = crate::memory::allocate(64 << 20).unwrap();
        let kernel = image(8192);
        let header = read_header(&mut &kernel).unwrap();
        let loaded = load_kernel(&memory, &kernel, &header).unwrap();
        assert_eq!(loaded, Loaded { entry: 0x10_0200, end: 20 << 20 });
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10_0000 + 8191)).unwrap(), 0x90);
        let initrd = Placed { start: 0x300_0000, size: 512 };
        let at = write_zero_page(&memory, &payload(kernel), header, Some(initrd)).unwrap();
        let params: Plain<boot_params> = memory.read_obj(GuestAddress(at)).unwrap();
        let (image, rsdp, cmdline) = (params.0.hdr.ramdisk_image, params.0.acpi_rsdp_addr, params.0.hdr.cmd_line_ptr);
        assert_eq!((image, rsdp, u64::from(cmdline)), (0x300_0000, 0xe0000, CMDLINE_START));
        assert_eq!(params.0.e820_entries, 4);
    }

    #[test]
    fn a_small_machine_and_an_old_kernel_are_refused() {
        let memory = crate::memory::allocate(16 << 20).unwrap();
        let kernel = image(8192);
        let header = read_header(&mut &kernel).unwrap();
        assert!(matches!(load_kernel(&memory, &kernel, &header), Err(BootError::TooSmall { .. })));
        let mut old = Plain(header);
        old.0.xloadflags = 0;
        let mut bytes = vec![0; 0x1f1];
        bytes.extend_from_slice(old.as_slice());
        assert!(matches!(read_header(&mut std::io::Cursor::new(bytes)), Err(BootError::No64Bit)));
    }
}
