//! Building a machine.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use berth_devices::block::{Block, BlockConfig};
use berth_devices::i8042::I8042;
use berth_devices::net::{Net, NetConfig};
use berth_devices::pci::{PciError, PciRoot};
use berth_devices::rng::Rng;
use berth_devices::rtc::Rtc;
use berth_devices::serial::Serial;
use berth_devices::virtio::{VirtioDevice, VirtioPci};
use berth_devices::vsock::{Vsock, VsockConfig};
use berth_devices::worker::ThreadSetup;
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::remotes::Remotes;
use super::signal::SignalSender;
use super::{Machine, Origin, Parts, Shape, output, signals};
use crate::acpi::AcpiError;
use crate::boot::BootError;
use crate::bus::{Buses, Overlap};
use crate::cpu::cpuid;
use crate::cpu::registers::RegisterError;
use crate::generation;
use crate::interrupts::{COM1_IRQ, EVENT_IRQ, GENERATION_IRQ, KvmKicks, Routing};
use crate::kvm::vcpu::{Context, Vcpu};
use crate::kvm::{self, Gate, KvmError};
use crate::memory::{self, Memory, MemoryError};
use crate::power::{self, Power};
use crate::seccomp;
use crate::settings::{DiskSettings, NicSettings};
use crate::state::SaveError;

const COM1_PORT: u64 = 0x3f8;
const RTC_PORT: u64 = 0x70;
const I8042_PORT: u64 = 0x60;

/// A machine that is to be built: a specification whose descriptors have been resolved.
pub struct Plan {
    /// Number of virtual CPUs.
    pub vcpus: u8,
    /// Bytes of RAM.
    pub memory: u64,
    /// What it begins with.
    pub origin: Origin,
    /// In order.
    pub disks: Vec<Disk>,
    /// In order.
    pub nics: Vec<Nic>,
    /// The socket device.
    pub vsock: Option<VsockConfig>,
}

/// A disk.
pub struct Disk {
    /// Raw image or block device.
    pub file: File,
    /// The guest cannot write it.
    pub readonly: bool,
    /// Serial number, and name for changes.
    pub id: String,
    /// What can be changed later.
    pub settings: DiskSettings,
}

/// A network device.
pub struct Nic {
    /// Name for changes.
    pub id: String,
    /// Tap device.
    pub tap: OwnedFd,
    /// MAC address.
    pub hwaddr: [u8; 6],
    /// Largest packet.
    pub mtu: u16,
    /// What can be changed later.
    pub settings: NicSettings,
}

/// Why a machine could not be built. The texts of the sources say what to do.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Registers.
    #[error(transparent)]
    Registers(#[from] RegisterError),
    /// CPUID.
    #[error("the list of CPU features cannot be made: {0}")]
    Cpuid(#[from] vmm_sys_util::fam::Error),
    /// Tables.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// Kernel and initrd.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A saved state.
    #[error("the machine cannot go on from its saved state: {0}")]
    Saved(#[from] SaveError),
    /// A device.
    #[error("device {name} cannot be made: {source}")]
    Device {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The PCI bus.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The ports.
    #[error(transparent)]
    Ports(#[from] Overlap),
    /// The window for BARs.
    #[error("the devices do not fit the guest's address space; give the machine less memory or fewer devices")]
    BarsFull,
    /// A descriptor or a thread.
    #[error("the host is out of a resource: {0}")]
    Host(#[from] io::Error),
}

/// Builds the machine. Nothing of the guest runs before [`super::Guest::resume`].
pub fn build(kvm: &Kvm, plan: Plan) -> Result<Machine, BuildError> {
    let supported = kvm::supported_cpuid(kvm)?;
    let mmio64 = memory::mmio64_window(plan.memory, cpuid::address_bits(&supported))?;
    let msrs = kvm.get_msr_index_list().map_err(kvm::refused("tell the registers of a CPU"))?.as_slice().to_vec();
    let shape = Shape { vcpus: plan.vcpus, memory: plan.memory, mmio64 };
    let vm = Arc::new(kvm::create_vm(kvm)?);
    let mut begun = plan.origin.open(&shape)?;
    let memory = begun.memory(&shape)?;
    kvm::map_memory(&vm, &memory)?;
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let features = (0..plan.vcpus)
        .map(|id| cpuid::for_vcpu(&supported, id, plan.vcpus, tsc_deadline))
        .collect::<Result<Vec<_>, _>>()?;
    let mut vcpus = (0..plan.vcpus).map(|id| Vcpu::new(&vm, id)).collect::<Result<Vec<_>, _>>()?;
    begun.set_up(&shape, &vm, &memory, &mut vcpus, features)?;
    generation::renew(&memory)?;

    let routing = Routing::new(vm.clone())?;
    let (signal_sender, signals) = signals()?;
    let (output_sender, output) = output::output()?;
    let serial = Serial::new(routing.line(COM1_IRQ)?, Box::new(output_sender))?;
    let power_button = routing.line(EVENT_IRQ)?;
    let generation = routing.line(GENERATION_IRQ)?;
    let mut pci = PciBuilder::new(&vm, &routing, &memory, mmio64);
    pci.add_devices(plan.disks, plan.nics, plan.vsock)?;
    let remotes = pci.remotes;
    let mut buses = Buses::new(pci.root);
    add_ports(&mut buses, &serial, &signal_sender, signals.reset_line()?)?;
    begun.set_up_devices(&buses, &generation)?;
    let context = Context { buses: Arc::new(buses), gate: Arc::new(Gate::new()), signals: signal_sender, memory };
    Ok(Machine::start(Parts { context, vm, shape, msrs, vcpus, serial, power_button, signals, output, remotes })?)
}

fn add_ports(
    buses: &mut Buses,
    serial: &Serial,
    signals: &SignalSender,
    reset: vmm_sys_util::eventfd::EventFd,
) -> Result<(), BuildError> {
    buses.add_ports(COM1_PORT, 8, serial.clone())?;
    buses.add_ports(RTC_PORT, 2, Rtc::new())?;
    buses.add_ports(I8042_PORT, 5, I8042::new(reset))?;
    buses.add_ports(u64::from(power::PORT), power::PORT_COUNT, Power::new(signals.clone()))?;
    Ok(())
}

/// Puts virtio devices on the bus and places their BARs.
struct PciBuilder<'a> {
    root: PciRoot,
    vm: &'a Arc<VmFd>,
    routing: &'a Arc<Routing>,
    memory: &'a Memory,
    bars: BarSpace,
    setup: ThreadSetup,
    remotes: Remotes,
}

impl<'a> PciBuilder<'a> {
    fn new(vm: &'a Arc<VmFd>, routing: &'a Arc<Routing>, memory: &'a Memory, window: (u64, u64)) -> Self {
        let bars = BarSpace { next: window.0, end: window.0 + window.1 };
        let (root, setup, remotes) = (PciRoot::new(), seccomp::devices(), Remotes::default());
        Self { root, vm, routing, memory, bars, setup, remotes }
    }

    /// Guests name network devices by their slot, so what comes and goes most, disks, is last.
    fn add_devices(&mut self, disks: Vec<Disk>, nics: Vec<Nic>, vsock: Option<VsockConfig>) -> Result<(), BuildError> {
        let setup = self.setup.clone();
        self.add("rng", Rng::new(&setup))?;
        if let Some(config) = vsock {
            self.add("vsock", Vsock::new(config, &setup))?;
        }
        for (index, nic) in nics.into_iter().enumerate() {
            let name = format!("net{index}");
            let Nic { id, tap, hwaddr: mac, mtu, settings } = nic;
            let card = Net::new(NetConfig { name: name.clone(), tap, mac, mtu, limits: settings.limits() }, &setup);
            self.remotes.nics.extend(card.as_ref().ok().map(|card| (id, card.remote())));
            self.add(&name, card)?;
        }
        for (index, disk) in disks.into_iter().enumerate() {
            let name = format!("blk{index}");
            let Disk { file, readonly, id, settings } = disk;
            let (serial, limits) = (id.clone(), settings.limits());
            let block = Block::new(BlockConfig { name: name.clone(), file, readonly, serial, limits }, &setup);
            self.remotes.disks.extend(block.as_ref().ok().map(|block| (id, block.remote())));
            self.add(&name, block)?;
        }
        Ok(())
    }

    fn add<D: VirtioDevice + 'static>(&mut self, name: &str, device: io::Result<D>) -> Result<(), BuildError> {
        let failed = |source| BuildError::Device { name: name.to_owned(), source };
        let device = device.map_err(failed)?;
        let msix = self.routing.msix(VirtioPci::vectors(&device)).map_err(failed)?;
        let kicks = Box::new(KvmKicks(self.vm.clone()));
        let function = VirtioPci::new(name, Box::new(device), self.memory.clone(), msix, kicks).map_err(failed)?;
        let slot = self.root.add(Box::new(function))?;
        for bar in self.root.bars(slot) {
            let address = self.bars.take(bar.size).ok_or(BuildError::BarsFull)?;
            self.root.set_bar_address(slot, bar.index, address);
        }
        Ok(())
    }
}

/// What is left of the window for 64-bit BARs.
#[derive(Debug)]
struct BarSpace {
    next: u64,
    end: u64,
}

impl BarSpace {
    /// A place of `size` bytes, aligned to its size (a power of two).
    fn take(&mut self, size: u64) -> Option<u64> {
        let start = self.next.checked_next_multiple_of(size)?;
        let end = start.checked_add(size).filter(|end| *end <= self.end)?;
        self.next = end;
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bars_are_aligned_and_apart(sizes in proptest::collection::vec(12u32..31, 1..40)) {
            let mut space = BarSpace { next: 5 << 30, end: 69 << 30 };
            let mut last = 5u64 << 30;
            for size in sizes.into_iter().map(|bits| 1u64 << bits) {
                let Some(at) = space.take(size) else { break };
                prop_assert!(at >= last && at % size == 0 && at + size <= 69 << 30);
                last = at + size;
            }
        }
    }

    #[test]
    fn a_full_window_gives_nothing() {
        let mut space = BarSpace { next: 0x1000, end: 0x3000 };
        assert_eq!(space.take(0x1000), Some(0x1000));
        assert_eq!(space.take(0x2000), None);
        assert_eq!(space.take(0x1000), Some(0x2000));
        assert_eq!(space.take(0x1000), None);
    }
}
