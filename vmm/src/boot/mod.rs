//! Putting a kernel, its initrd and what it needs to know into the guest's memory.
//!
//! ```text
//!   0x500    descriptor table        (cpu::registers)
//!   0x6000   hvm_start_info          (PVH)
//!   0x7000   zero page               (bzImage), memory map and module list (PVH)
//!   0x9000   page tables             (bzImage)
//!   0x20000  command line
//!   0xe0000  ACPI tables             (acpi)
//!   0xffff0  reset vector            (reset)
//!   1 MiB    kernel
//!   …        initrd, at the top of the RAM below the hole
//! ```

mod initrd;
pub mod linux;
pub mod pvh;
mod reset;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{self, KernelLoader};
use vm_memory::{Bytes, GuestAddress};

use crate::cpu::registers::Entry;
use crate::memory::{HIGH_RAM_START, LOW_RAM_END, Memory};

/// Where the command line lies.
pub const CMDLINE_START: u64 = 0x2_0000;

/// Why a kernel cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// See the message.
    #[error("the kernel cannot be read: {0}")]
    ReadKernel(io::Error),
    /// See the message.
    #[error("the kernel is neither an ELF file nor a bzImage; rebuild or replace the image's kernel")]
    UnknownFormat,
    /// See the message.
    #[error("the kernel cannot be loaded: {0}; it is damaged, or the machine's memory is too small for it")]
    Load(loader::Error),
    /// See the message.
    #[error("the kernel has no PVH entry: it must be built with CONFIG_PVH=y, or be handed over as bzImage")]
    NoPvh,
    /// See the message.
    #[error("the kernel has no 64-bit entry; only kernels for x86_64 can be booted")]
    No64Bit,
    /// See the message.
    #[error("initrd {index} cannot be read: {source}")]
    ReadInitrd {
        /// Its place among the initrds.
        index: usize,
        /// Why.
        source: io::Error,
    },
    /// See the message.
    #[error(
        "kernel ({kernel} bytes) and initrd ({initrd} bytes) do not fit the {memory} bytes of memory below 4 GiB; give \
         the machine more memory (limits.memory)"
    )]
    TooSmall {
        /// End of the kernel, bytes from 1 MiB.
        kernel: u64,
        /// Bytes of all initrds.
        initrd: u64,
        /// What there is.
        memory: u64,
    },
    /// See the message.
    #[error("cannot write the boot parameters to the guest's memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// What is to be booted.
pub struct Payload {
    /// ELF or bzImage.
    pub kernel: File,
    /// In order.
    pub initrds: Vec<File>,
    /// Without the final zero.
    pub cmdline: String,
    /// Physical address of the ACPI root pointer.
    pub rsdp: u64,
    /// Bytes of RAM.
    pub memory_size: u64,
}

/// A range of the guest's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

enum Format {
    Elf,
    BzImage,
}

fn format(kernel: &File) -> Result<Format, BootError> {
    const BZIMAGE_MAGIC_OFFSET: u64 = 0x202;
    let mut magic = [0; 4];
    kernel.read_exact_at(&mut magic, 0).map_err(BootError::ReadKernel)?;
    if &magic == b"\x7fELF" {
        return Ok(Format::Elf);
    }
    match kernel.read_exact_at(&mut magic, BZIMAGE_MAGIC_OFFSET) {
        Ok(()) if &magic == b"HdrS" => Ok(Format::BzImage),
        Ok(()) => Err(BootError::UnknownFormat),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(BootError::UnknownFormat),
        Err(e) => Err(BootError::ReadKernel(e)),
    }
}

/// Loads everything and tells how the boot CPU is to be started.
pub fn load(memory: &Memory, payload: Payload) -> Result<Entry, BootError> {
    reset::write(memory)?;
    let mut kernel = &payload.kernel;
    match format(kernel)? {
        Format::Elf => {
            let mut reader = payload.kernel.try_clone().map_err(BootError::ReadKernel)?;
            let loaded = loader::Elf::load(memory, None, &mut reader, Some(GuestAddress(HIGH_RAM_START)))
                .map_err(BootError::Load)?;
            let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
                return Err(BootError::NoPvh);
            };
            let initrd = initrd::load(memory, &payload.initrds, loaded.kernel_end, u64::from(u32::MAX))?;
            write_cmdline(memory, &payload.cmdline)?;
            let start_info = pvh::write(memory, &payload, initrd)?;
            Ok(Entry::Pvh { address: vm_memory::Address::raw_value(&entry), start_info })
        }
        Format::BzImage => {
            let header = linux::read_header(&mut kernel)?;
            let loaded = linux::load_kernel(memory, &payload.kernel, &header)?;
            let initrd = initrd::load(memory, &payload.initrds, loaded.end, u64::from(header.initrd_addr_max))?;
            write_cmdline(memory, &payload.cmdline)?;
            let zero_page = linux::write_zero_page(memory, &payload, header, initrd)?;
            Ok(Entry::Linux64 { address: loaded.entry, zero_page })
        }
    }
}

fn write_cmdline(memory: &Memory, cmdline: &str) -> Result<(), BootError> {
    debug_assert!(CMDLINE_START + (cmdline.len() as u64) < LOW_RAM_END);
    memory.write_slice(cmdline.as_bytes(), GuestAddress(CMDLINE_START))?;
    Ok(memory.write_obj(0u8, GuestAddress(CMDLINE_START + cmdline.len() as u64))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn formats_are_told_apart() {
        let file = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file
        };
        assert!(matches!(format(&file(b"\x7fELF....")), Ok(Format::Elf)));
        let mut image = vec![0; 0x300];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(matches!(format(&file(&image)), Ok(Format::BzImage)));
        assert!(matches!(format(&file(b"#!/bin/sh\n")), Err(BootError::UnknownFormat)));
        assert!(matches!(format(&file(b"")), Err(BootError::ReadKernel(_))));
    }

    #[test]
    fn hostile_kernels_are_refused_without_harm() {
        let memory = crate::memory::allocate(64 << 20).unwrap();
        for length in [4usize, 63, 64, 0x300] {
            let mut kernel = tempfile::tempfile().unwrap();
            let mut bytes = vec![0xff; length];
            bytes[..4].copy_from_slice(b"\x7fELF");
            kernel.write_all(&bytes).unwrap();
            let payload = Payload { kernel, initrds: vec![], cmdline: String::new(), rsdp: 0, memory_size: 64 << 20 };
            assert!(load(&memory, payload).is_err());
        }
    }
}
