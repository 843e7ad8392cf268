//! Registers of a virtual CPU at the entry of a kernel.

use kvm_bindings::{Msrs, kvm_dtable, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use crate::memory::Memory;

/// Where the descriptor table is written. Kernels load their own at once.
pub const GDT_START: u64 = 0x500;
/// Where the page tables of the 64-bit entry are written; six pages.
pub const PAGE_TABLES_START: u64 = 0x9000;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of the flags is always set.
const RFLAGS: u64 = 0x2;

const MSR_IA32_TSC: u32 = 0x10;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, everything write-back.
const MTRR_ON_WRITE_BACK: u64 = (1 << 11) | 6;

const LAPIC_LVT0: usize = 0x350;
const LAPIC_LVT1: usize = 0x360;
const DELIVERY_EXTINT: u32 = 0x7;
const DELIVERY_NMI: u32 = 0x4;

/// How the kernel wants to be entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// PVH: 32-bit protected mode without paging, `ebx` points to the start info.
    Pvh {
        /// Entry point.
        address: u64,
        /// Physical address of `hvm_start_info`.
        start_info: u64,
    },
    /// Linux's 64-bit boot protocol: `rsi` points to the zero page, memory below 4 GiB is mapped one to one.
    Linux64 {
        /// Entry point.
        address: u64,
        /// Physical address of the zero page.
        zero_page: u64,
    },
}

/// A register set that KVM refused.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// See the message.
    #[error("KVM does not take the {what} of a virtual CPU: {source}")]
    Kvm {
        /// Which.
        what: &'static str,
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// See the message.
    #[error("KVM takes only {taken} of {given} model specific registers; the next is {next:#x}")]
    Msr {
        /// Number taken.
        taken: usize,
        /// Number given.
        given: usize,
        /// The refused one.
        next: u32,
    },
    /// See the message.
    #[error("the tables of the kernel's entry do not fit the guest's memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// See the message.
    #[error("the list of model specific registers cannot be made: {0}")]
    List(#[from] vmm_sys_util::fam::Error),
}

fn kvm(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> RegisterError {
    move |source| RegisterError::Kvm { what, source }
}

/// Sets what every virtual CPU has after a reset by firmware.
pub fn set_common(vcpu: &VcpuFd) -> Result<(), RegisterError> {
    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(kvm("floating point state"))?;
    set_msrs(vcpu)?;
    let mut lapic = vcpu.get_lapic().map_err(kvm("local APIC"))?;
    set_delivery(&mut lapic, LAPIC_LVT0, DELIVERY_EXTINT);
    set_delivery(&mut lapic, LAPIC_LVT1, DELIVERY_NMI);
    vcpu.set_lapic(&lapic).map_err(kvm("local APIC"))
}

fn set_msrs(vcpu: &VcpuFd) -> Result<(), RegisterError> {
    let entries =
        [(MSR_IA32_TSC, 0), (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING), (MSR_MTRR_DEF_TYPE, MTRR_ON_WRITE_BACK)]
            .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let taken = vcpu.set_msrs(&Msrs::from_entries(&entries)?).map_err(kvm("model specific registers"))?;
    match entries.get(taken) {
        None => Ok(()),
        Some(refused) => Err(RegisterError::Msr { taken, given: entries.len(), next: refused.index }),
    }
}

fn set_delivery(lapic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let mut bytes = [0u8; 4];
    for (byte, from) in bytes.iter_mut().zip(&lapic.regs[register..register + 4]) {
        *byte = *from as u8;
    }
    let value = (u32::from_le_bytes(bytes) & !0x700) | (mode << 8);
    for (to, byte) in lapic.regs[register..register + 4].iter_mut().zip(value.to_le_bytes()) {
        *to = byte as _;
    }
}

/// Sets what the boot CPU has at the kernel's entry, and writes the tables that belong to it.
pub fn set_entry(vcpu: &VcpuFd, memory: &Memory, entry: Entry) -> Result<(), RegisterError> {
    let (mut regs, long) = match entry {
        Entry::Pvh { address, start_info } => (kvm_regs { rip: address, rbx: start_info, ..Default::default() }, false),
        Entry::Linux64 { address, zero_page } => {
            (kvm_regs { rip: address, rsi: zero_page, ..Default::default() }, true)
        }
    };
    regs.rflags = RFLAGS;
    vcpu.set_regs(&regs).map_err(kvm("general registers"))?;
    let mut sregs = vcpu.get_sregs().map_err(kvm("segment registers"))?;
    write_gdt(memory, long)?;
    set_segments(&mut sregs, long);
    if long {
        write_page_tables(memory)?;
        set_long_mode(&mut sregs, PAGE_TABLES_START);
    }
    vcpu.set_sregs(&sregs).map_err(kvm("segment registers"))
}

/// Switches paging and long mode on with the page tables at `tables`.
pub fn set_long_mode(sregs: &mut kvm_sregs, tables: u64) {
    sregs.cr3 = tables;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
}

/// Flat segments; code is of 64 bits if `long`.
pub fn set_segments(sregs: &mut kvm_sregs, long: bool) {
    let flat = |selector, type_, db, l| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db,
        s: 1,
        l,
        g: 1,
        ..Default::default()
    };
    let data = flat(0x18, 3, 1, 0);
    sregs.cs = flat(0x10, 11, u8::from(!long), u8::from(long));
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    // The PVH entry wants a 32-bit task segment that is busy, of 0x67 bytes.
    sregs.tr = kvm_segment { limit: 0x67, selector: 0x20, type_: 11, present: 1, s: 0, ..Default::default() };
    sregs.gdt = kvm_dtable { base: GDT_START, limit: 5 * 8 - 1, ..Default::default() };
    sregs.idt = kvm_dtable { base: 0, limit: 0, ..Default::default() };
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr4 = 0;
}

/// The descriptors that [`set_segments`] names: two empty, code, data, task.
fn write_gdt(memory: &Memory, long: bool) -> Result<(), RegisterError> {
    let code = if long { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
    let table: [u64; 5] = [0, 0, code, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067];
    for (i, descriptor) in table.into_iter().enumerate() {
        memory.write_obj(descriptor, GuestAddress(GDT_START + 8 * i as u64))?;
    }
    Ok(())
}

/// Maps the first 4 GiB one to one with pages of 2 MiB.
fn write_page_tables(memory: &Memory) -> Result<(), RegisterError> {
    const PRESENT_WRITABLE: u64 = 0x3;
    const LARGE: u64 = 0x80;
    let directory_pointers = PAGE_TABLES_START + 0x1000;
    let directories = PAGE_TABLES_START + 0x2000;
    memory.write_obj(directory_pointers | PRESENT_WRITABLE, GuestAddress(PAGE_TABLES_START))?;
    for gib in 0..4u64 {
        let directory = directories + gib * 0x1000;
        memory.write_obj(directory | PRESENT_WRITABLE, GuestAddress(directory_pointers + gib * 8))?;
        for page in 0..512u64 {
            let address = (gib << 30) | (page << 21);
            memory.write_obj(address | PRESENT_WRITABLE | LARGE, GuestAddress(directory + page * 8))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entries_differ_in_mode_only() {
        let mut pvh = kvm_sregs::default();
        set_segments(&mut pvh, false);
        assert_eq!((pvh.cs.db, pvh.cs.l, pvh.cr0 & CR0_PG), (1, 0, 0));
        let mut long = kvm_sregs::default();
        set_segments(&mut long, true);
        set_long_mode(&mut long, PAGE_TABLES_START);
        assert_eq!((long.cs.db, long.cs.l), (0, 1));
        assert_ne!(long.cr0 & CR0_PG, 0);
        assert_eq!(long.efer, EFER_LMA | EFER_LME);
    }

    #[test]
    fn the_page_tables_map_one_to_one() {
        let memory = crate::memory::allocate(64 << 20).unwrap();
        write_page_tables(&memory).unwrap();
        let last: u64 = memory.read_obj(GuestAddress(PAGE_TABLES_START + 0x6000 - 8)).unwrap();
        assert_eq!(last, 0xffe0_0000 | 0x83);
    }

    #[test]
    fn a_local_vector_keeps_its_other_bits() {
        let mut lapic = kvm_lapic_state::default();
        lapic.regs[LAPIC_LVT0 + 2] = 1;
        set_delivery(&mut lapic, LAPIC_LVT0, DELIVERY_EXTINT);
        assert_eq!(lapic.regs[LAPIC_LVT0 + 1], 7);
        assert_eq!(lapic.regs[LAPIC_LVT0 + 2], 1);
    }
}
