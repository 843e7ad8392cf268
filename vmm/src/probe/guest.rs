//! The guest of the probe.

use std::arch::global_asm;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::memory::Memory;

/// Where its code is loaded.
pub const CODE: u64 = 0x1_0000;
/// Zeroed memory it works on, aligned to 64 bytes.
pub const DATA: u64 = 0x2_0000;
/// Page tables that map the first 2 MiB one to one, for ring 3 as well.
pub const PAGE_TABLES: u64 = 0x9000;
/// The port it tells its progress through.
pub const PORT: u16 = 0x80;

/// It runs in ring 0.
pub const STARTED: u8 = 1;
/// `popcnt` works.
pub const POPCNT: u8 = 2;
/// `cmpxchg16b` works.
pub const CMPXCHG16B: u8 = 3;
/// `fnclex` works.
pub const FNCLEX: u8 = 4;
/// `xrstor` works.
pub const XRSTOR: u8 = 5;
/// A system call arrived in ring 0.
pub const SYSCALL: u8 = 6;
/// A system call arrived, but in ring 3.
pub const SYSCALL_RING3: u8 = 0xe3;
/// An instruction did not do what it should.
pub const WRONG: u8 = 0xff;

// Entered in 64-bit mode with rdi = 1 if the CPU has xsave and rsi = DATA. It has no stack and needs none. Ring 3 is entered with
// IOPL 3, so that a system call which stays there can tell so.
global_asm!(
    ".pushsection .rodata.berth_probe, \"a\"",
    ".global berth_probe_start, berth_probe_syscall, berth_probe_end",
    "berth_probe_start:",
    "mov al, {started}",
    "out {port}, al",
    "mov ebx, 0xff",
    "popcnt rax, rbx",
    "cmp rax, 8",
    "jne 9f",
    "mov al, {popcnt}",
    "out {port}, al",
    "xor eax, eax",
    "xor edx, edx",
    "mov ebx, 1",
    "xor ecx, ecx",
    "lock cmpxchg16b [rsi]",
    "jne 9f",
    "cmp dword ptr [rsi], 1",
    "jne 9f",
    "mov al, {cmpxchg16b}",
    "out {port}, al",
    "fnclex",
    "mov al, {fnclex}",
    "out {port}, al",
    "test edi, edi",
    "jz 2f",
    "mov eax, 3",
    "xor edx, edx",
    "xrstor [rsi + 64]",
    "mov al, {xrstor}",
    "out {port}, al",
    "2:",
    "lea rcx, [rip + 3f]",
    "mov r11d, 0x3002",
    "sysretq",
    "3:",
    "syscall",
    "berth_probe_syscall:",
    "mov ecx, cs",
    "mov al, {syscall}",
    "test cl, 3",
    "jz 4f",
    "mov al, {syscall_ring3}",
    "4:",
    "out {port}, al",
    "jmp 4b",
    "9:",
    "mov al, {wrong}",
    "out {port}, al",
    "jmp 9b",
    "berth_probe_end:",
    ".popsection",
    port = const PORT,
    started = const STARTED,
    popcnt = const POPCNT,
    cmpxchg16b = const CMPXCHG16B,
    fnclex = const FNCLEX,
    xrstor = const XRSTOR,
    syscall = const SYSCALL,
    syscall_ring3 = const SYSCALL_RING3,
    wrong = const WRONG,
);

unsafe extern "C" {
    static berth_probe_start: u8;
    static berth_probe_syscall: u8;
    static berth_probe_end: u8;
}

fn code() -> &'static [u8] {
    let start = &raw const berth_probe_start;
    let length = (&raw const berth_probe_end).addr() - start.addr();
    // SAFETY: both symbols are in one piece of read-only data, in this order.
    unsafe { std::slice::from_raw_parts(start, length) }
}

/// Where system calls arrive.
pub fn syscall_entry() -> u64 {
    let offset = (&raw const berth_probe_syscall).addr() - (&raw const berth_probe_start).addr();
    CODE + offset as u64
}

/// Puts code and page tables into the guest's memory.
pub fn load(memory: &Memory) -> Result<(), GuestMemoryError> {
    const PRESENT_WRITABLE_USER: u64 = 0x7;
    const LARGE: u64 = 0x80;
    memory.write_slice(code(), GuestAddress(CODE))?;
    memory.write_obj((PAGE_TABLES + 0x1000) | PRESENT_WRITABLE_USER, GuestAddress(PAGE_TABLES))?;
    memory.write_obj((PAGE_TABLES + 0x2000) | PRESENT_WRITABLE_USER, GuestAddress(PAGE_TABLES + 0x1000))?;
    memory.write_obj(PRESENT_WRITABLE_USER | LARGE, GuestAddress(PAGE_TABLES + 0x2000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_whole() {
        assert!(code().len() > 64 && code().len() < 256);
        assert_eq!(code()[0], 0xb0, "mov al, imm8");
        let entry = (syscall_entry() - CODE) as usize;
        assert_eq!(&code()[entry - 2..entry], [0x0f, 0x05], "the system call is just before its entry");
    }
}
