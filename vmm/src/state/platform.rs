//! What belongs to the machine as a whole in KVM: interrupt controllers and the clock. (Routes follow from the devices'
//! MSI-X tables.)

use berth_devices::saved::{Saved, Sections};
use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use super::{Exact, MACHINE, SaveError, kvm};

const CHIPS: [u32; 3] = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];

/// See the module's text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedPlatform {
    chips: [Exact<kvm_irqchip>; CHIPS.len()],
    clock: Exact<kvm_clock_data>,
}

impl Saved for SavedPlatform {
    const KIND: &'static str = "platform";
    const VERSION: u32 = 1;
}

/// Adds the state; CPUs and devices are held.
pub fn save(vm: &VmFd, sections: &mut Sections) -> Result<(), SaveError> {
    let mut chips = [Exact(kvm_irqchip::default()); CHIPS.len()];
    for (chip, id) in chips.iter_mut().zip(CHIPS) {
        chip.0.chip_id = id;
        vm.get_irqchip(&mut chip.0).map_err(kvm("tell the state", "an interrupt controller"))?;
    }
    let clock = vm.get_clock().map_err(kvm("tell the state", "the clock"))?;
    Ok(sections.add(MACHINE, &SavedPlatform { chips, clock: Exact(clock) })?)
}

/// Takes the state out and gives it to a machine whose CPUs have not run.
pub fn restore(vm: &VmFd, sections: &mut Sections) -> Result<(), SaveError> {
    let state: SavedPlatform = sections.take(MACHINE)?;
    for (chip, id) in state.chips.iter().zip(CHIPS) {
        let chip = kvm_irqchip { chip_id: id, ..chip.0 };
        vm.set_irqchip(&chip).map_err(kvm("take the state", "an interrupt controller"))?;
    }
    // Without its flags: the guest's monotonic clock goes on where it stood, and its agent sets the date.
    let clock = kvm_clock_data { clock: state.clock.0.clock, ..Default::default() };
    vm.set_clock(&clock).map_err(kvm("take the state", "the clock"))
}
