//! The DSDT.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Arg, Device, EISAName, Equal, IO, If, Interrupt, Memory32Fixed, Method, Name,
    Notify, Package, Path, ResourceTemplate,
};
use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE, Platform, bytes};
use crate::interrupts::{COM1_IRQ, EVENT_IRQ, GENERATION_IRQ};
use crate::memory::{ECAM_SIZE, ECAM_START, GENERATION_ID, MMIO32_SIZE, MMIO32_START};
use crate::power;

/// Header of a table.
const HEADER: u32 = 36;
/// Revision from which integers have 64 bits.
const REVISION: u8 = 2;
/// What the generation id tells: it changed.
const GENERATION_CHANGED: u8 = 0x80;
/// What a power button tells.
const BUTTON_PRESSED: u8 = 0x80;
const COM1_PORT: u16 = 0x3f8;

/// The whole table.
pub fn table(platform: &Platform) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", HEADER, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    let devices = [serial_port(), power_button(), generation_id(), event_device()];
    for part in [pci_root(platform), motherboard()].into_iter().chain(devices).chain([soft_off()]) {
        table.append_slice(&part);
    }
    table.as_slice().to_vec()
}

fn name(path: &str, value: &dyn Aml) -> Name {
    Name::new(path.into(), value)
}

fn hardware_id(id: &str) -> Name {
    name("_HID", &EISAName::new(id))
}

fn resources(descriptors: Vec<&dyn Aml>) -> Name {
    name("_CRS", &ResourceTemplate::new(descriptors))
}

/// A window for BARs; `T` tells the size of its addresses.
fn window<T: Default>(start: T, last: T) -> AddressSpace<T> {
    AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, start, last, None)
}

fn pci_root(platform: &Platform) -> Vec<u8> {
    let (start64, size64) = platform.mmio64;
    bytes(&Device::new(
        Path::new("\\_SB_.PCI0"),
        vec![
            &hardware_id("PNP0A08"),
            &name("_CID", &EISAName::new("PNP0A03")),
            &name("_SEG", &0u8),
            &name("_BBN", &0u8),
            &name("_UID", &0u8),
            &resources(vec![
                &AddressSpace::new_bus_number(0u16, 0u16),
                &IO::new(0xcf8, 0xcf8, 1, 8),
                &window(MMIO32_START as u32, (MMIO32_START + MMIO32_SIZE - 1) as u32),
                &window(start64, start64 + size64 - 1),
            ]),
        ],
    ))
}

/// What nobody else may take: PCI configuration space, without which kernels do not trust the MCFG, and the power
/// registers.
fn motherboard() -> Vec<u8> {
    bytes(&Device::new(
        Path::new("\\_SB_.MBRD"),
        vec![
            &hardware_id("PNP0C02"),
            &name("_UID", &0u8),
            &resources(vec![
                &Memory32Fixed::new(true, ECAM_START as u32, ECAM_SIZE as u32),
                &IO::new(power::PORT, power::PORT, 1, power::PORT_COUNT as u8),
            ]),
        ],
    ))
}

/// An interrupt that only this device has: edge, active high.
fn own_interrupt(number: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, number)
}

fn serial_port() -> Vec<u8> {
    bytes(&Device::new(
        Path::new("\\_SB_.COM1"),
        vec![
            &hardware_id("PNP0501"),
            &name("_UID", &0u8),
            &resources(vec![&own_interrupt(COM1_IRQ), &IO::new(COM1_PORT, COM1_PORT, 1, 8)]),
        ],
    ))
}

fn power_button() -> Vec<u8> {
    bytes(&Device::new(Path::new("\\_SB_.PWRB"), vec![&hardware_id("PNP0C0C")]))
}

/// The generation id, as Microsoft's "Virtual Machine Generation ID" describes it: guests know the device by its
/// compatible ids, the first of which is too long for some.
fn generation_id() -> Vec<u8> {
    let (low, high) = (GENERATION_ID as u32, (GENERATION_ID >> 32) as u32);
    bytes(&Device::new(
        Path::new("\\_SB_.VGEN"),
        vec![
            &name("_HID", &"BERTHVGI"),
            &name("_CID", &Package::new(vec![&"VM_Gen_Counter", &"VMGENCTR"])),
            &name("_DDN", &"VM_Gen_Counter"),
            &name("ADDR", &Package::new(vec![&low, &high])),
        ],
    ))
}

/// The generic event device: which of its interrupts came tells what happened.
fn event_device() -> Vec<u8> {
    let button = Path::new("\\_SB_.PWRB");
    let pressed = Notify::new(&button, &BUTTON_PRESSED);
    let is_button = Equal::new(&Arg(0), &EVENT_IRQ);
    let generation = Path::new("\\_SB_.VGEN");
    let changed = Notify::new(&generation, &GENERATION_CHANGED);
    let is_generation = Equal::new(&Arg(0), &GENERATION_IRQ);
    bytes(&Device::new(
        Path::new("\\_SB_.GED_"),
        vec![
            &name("_HID", &"ACPI0013"),
            &name("_UID", &0u8),
            &resources(vec![&own_interrupt(EVENT_IRQ), &own_interrupt(GENERATION_IRQ)]),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&If::new(&is_button, vec![&pressed]), &If::new(&is_generation, vec![&changed])],
            ),
        ],
    ))
}

/// The only sleep state.
fn soft_off() -> Vec<u8> {
    bytes(&name("\\_S5_", &Package::new(vec![&power::S5_TYPE, &0u8])))
}
