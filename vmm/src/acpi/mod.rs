//! The firmware tables: hardware-reduced ACPI, which every kernel of interest understands. There is no MP table and no
//! SMBIOS.
//!
//! | table | tells |
//! |---|---|
//! | RSDP, XSDT | where the others are |
//! | FADT | hardware-reduced; sleep, reset registers |
//! | MADT | processors and the I/O APIC |
//! | MCFG | PCI configuration space |
//! | DSDT | PCI root and its windows, serial port, power button, generation id, the device that signals both ([`dsdt`]) |

mod dsdt;

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::{ACPI_END, ACPI_START, ECAM_START, IOAPIC, LAPIC, Memory};
use crate::power;

const OEM: [u8; 6] = *b"BERTH ";
const OEM_TABLE: [u8; 8] = *b"BERTHVMM";
const OEM_REVISION: u32 = 1;
const ALIGNMENT: u64 = 16;
/// FADT boot flags: no VGA, no CMOS clock to be used. (Bit 1, an i8042, stays clear.)
const BOOT_NO_VGA: u16 = 1 << 2;
const BOOT_NO_CMOS: u16 = 1 << 5;

/// What the tables depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    /// Number of processors.
    pub vcpus: u8,
    /// Start and length of the window for 64-bit BARs.
    pub mmio64: (u64, u64),
}

/// Tables that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// See the message.
    #[error("the firmware tables take {0} bytes, more than their area holds; give the machine fewer CPUs")]
    TooLarge(u64),
    /// See the message.
    #[error("cannot write the firmware tables to the guest's memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

#[derive(Default)]
struct Sink(Vec<u8>);

impl AmlSink for Sink {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn vec(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut sink = Sink::default();
    table.to_aml_bytes(&mut sink);
    sink.0
}

/// All tables with their addresses; the first is the root pointer.
fn tables(platform: &Platform) -> Vec<(u64, Vec<u8>)> {
    let mut placed = Vec::new();
    let mut next = (ACPI_START + Rsdp::len() as u64).next_multiple_of(ALIGNMENT);
    let mut place = |table: Vec<u8>| {
        let at = next;
        next = (at + table.len() as u64).next_multiple_of(ALIGNMENT);
        placed.push((at, table));
        at
    };
    let dsdt = place(dsdt::table(platform));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in [bytes(&fadt(dsdt)), bytes(&madt(platform.vcpus)), bytes(&mcfg())] {
        xsdt.add_entry(place(table));
    }
    let xsdt = place(bytes(&xsdt));
    placed.insert(0, (ACPI_START, bytes(&Rsdp::new(OEM, xsdt))));
    placed
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let register = |port| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = (BOOT_NO_VGA | BOOT_NO_CMOS).into();
    fadt.reset_reg = register(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = register(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(power::SLEEP_STATUS);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE).into();
    fadt.finalize()
}

fn madt(vcpus: u8) -> MADT {
    let mut madt = MADT::new(OEM, OEM_TABLE, OEM_REVISION, LocalInterruptController::Address(LAPIC));
    for id in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IOAPIC, 0));
    madt
}

fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(ECAM_START, 0, 0, 0);
    mcfg
}

/// Writes all tables and returns the address of the root pointer.
pub fn write(memory: &Memory, platform: &Platform) -> Result<u64, AcpiError> {
    let tables = tables(platform);
    let end = tables.iter().map(|(at, table)| at + table.len() as u64).max().unwrap_or(ACPI_START);
    if end > ACPI_END {
        return Err(AcpiError::TooLarge(end - ACPI_START));
    }
    for (at, table) in &tables {
        memory.write_slice(table, GuestAddress(*at))?;
    }
    Ok(ACPI_START)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLATFORM: Platform = Platform { vcpus: 254, mmio64: (1 << 32, 64 << 30) };

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn every_table_has_its_length_and_checksum() {
        let tables = tables(&PLATFORM);
        let rsdp = &tables[0].1;
        assert_eq!((sum(&rsdp[..20]), sum(rsdp), &rsdp[..8]), (0, 0, &b"RSD PTR "[..]));
        for (at, table) in &tables[1..] {
            let length = u32::from_le_bytes(table[4..8].try_into().unwrap());
            assert_eq!(length as usize, table.len());
            assert_eq!(sum(table), 0, "{}", String::from_utf8_lossy(&table[..4]));
            assert_eq!(at % ALIGNMENT, 0);
        }
        assert!(tables[1..].windows(2).all(|pair| pair[0].0 + pair[0].1.len() as u64 <= pair[1].0));
    }

    #[test]
    fn from_the_root_pointer_every_table_is_found() {
        let memory = crate::memory::allocate(64 << 20).unwrap();
        let root = write(&memory, &PLATFORM).unwrap();
        let read = |at: u64, length: usize| {
            let mut bytes = vec![0; length];
            memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
            bytes
        };
        let xsdt = u64_at(&read(root, 36), 24);
        let entries = read(xsdt + 36, 24);
        let names: Vec<_> = (0..3).map(|i| read(u64_at(&entries, i * 8), 4)).collect();
        assert_eq!(names, [b"FACP".to_vec(), b"APIC".to_vec(), b"MCFG".to_vec()]);
        let fadt = read(u64_at(&entries, 0), 276);
        assert_eq!(read(u64_at(&fadt, 140), 4), b"DSDT");
        assert_ne!(u32::from_le_bytes(fadt[112..116].try_into().unwrap()) & 1 << 20, 0, "hardware-reduced");
    }
}
