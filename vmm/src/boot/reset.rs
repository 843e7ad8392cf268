//! What lies at a PC's reset vector.
//!
//! Kernels on hardware-reduced ACPI do not use its reset register by themselves; they ask EFI, and without EFI jump to where a
//! PC's firmware starts, in real mode. There the machine has a few instructions that write the register for them.

use vm_memory::{Bytes, GuestAddress};

use crate::memory::Memory;
use crate::power::{RESET, RESET_VALUE};

/// `f000:fff0`, where a PC's processor starts.
const VECTOR: u64 = 0xf_fff0;

/// 16-bit code; 16 bytes are the room there is.
fn code() -> [u8; 9] {
    let [low, high] = RESET.to_le_bytes();
    [
        0xba,
        low,
        high, // mov dx, RESET
        0xb0,
        RESET_VALUE, // mov al, RESET_VALUE
        0xee,        // out dx, al
        0xf4,        // hlt
        0xeb,
        0xfd, // jmp to the hlt
    ]
}

/// Writes the code.
pub fn write(memory: &Memory) -> Result<(), vm_memory::GuestMemoryError> {
    memory.write_slice(&code(), GuestAddress(VECTOR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{ACPI_END, LEGACY_END};

    #[test]
    fn the_vector_is_reserved_and_free() {
        assert!(VECTOR >= ACPI_END && VECTOR + code().len() as u64 <= LEGACY_END);
    }
}
