//! A virtual CPU as saved state.

use berth_devices::saved::{Saved, Sections};
use kvm_bindings::{
    CpuId, Msrs, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::{Exact, SaveError, host, kvm};
use crate::kvm::sys;
use crate::kvm::vcpu::Vcpu;

/// Registers KVM takes and gives at a time (`KVM_MAX_MSR_ENTRIES`).
const MSR_BATCH: usize = 255;

/// Registers of Hyper-V's interface, which no guest is offered. Writing them would make KVM begin to emulate it.
const HYPER_V: std::ops::Range<u32> = 0x4000_0000..0x4000_1000;

/// Everything of a virtual CPU that KVM keeps.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedCpu {
    cpuid: Vec<Exact<kvm_cpuid_entry2>>,
    /// Frequency of its time stamp counter in kHz, if the host can tell.
    tsc_khz: Option<u32>,
    mp_state: Exact<kvm_mp_state>,
    regs: Exact<kvm_regs>,
    sregs: Exact<kvm_sregs>,
    xsave: Exact<kvm_xsave>,
    xcrs: Exact<kvm_xcrs>,
    debug: Exact<kvm_debugregs>,
    lapic: Exact<kvm_lapic_state>,
    /// Index and value.
    msrs: Vec<(u32, u64)>,
    events: Exact<kvm_vcpu_events>,
}

impl Saved for SavedCpu {
    const KIND: &'static str = "cpu";
    const VERSION: u32 = 1;
}

fn name(id: u8) -> String {
    format!("cpu{id}")
}

/// Adds the state of the paused CPU `id`. `msrs` are those KVM can save.
pub fn save(id: u8, cpu: &Vcpu, msrs: &[u32], sections: &mut Sections) -> Result<(), SaveError> {
    let name = &name(id);
    let get = |what| kvm(what, name);
    let vcpu = cpu.fd();
    let state = SavedCpu {
        // First: KVM carries out what is pending of INIT and SIPI here, which changes the registers.
        mp_state: Exact(vcpu.get_mp_state().map_err(get("tell the run state"))?),
        cpuid: cpu.features().iter().copied().map(Exact).collect(),
        tsc_khz: vcpu.get_tsc_khz().ok(),
        regs: Exact(vcpu.get_regs().map_err(get("tell the registers"))?),
        sregs: Exact(vcpu.get_sregs().map_err(get("tell the segment registers"))?),
        xsave: Exact(vcpu.get_xsave().map_err(get("tell the extended state"))?),
        xcrs: Exact(vcpu.get_xcrs().map_err(get("tell the extended control registers"))?),
        debug: Exact(vcpu.get_debug_regs().map_err(get("tell the debug registers"))?),
        lapic: Exact(vcpu.get_lapic().map_err(get("tell the local APIC"))?),
        msrs: read_msrs(name, vcpu, msrs)?,
        events: Exact(vcpu.get_vcpu_events().map_err(get("tell the pending events"))?),
    };
    Ok(sections.add(name, &state)?)
}

fn read_msrs(name: &str, vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, SaveError> {
    let indices: Vec<u32> = indices.iter().copied().filter(|index| !HYPER_V.contains(index)).collect();
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = &indices[..];
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(MSR_BATCH)];
        let entries: Vec<_> = batch.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut msrs = Msrs::from_entries(&entries)?;
        let taken = vcpu.get_msrs(&mut msrs).map_err(kvm("tell the model specific registers", name))?;
        values.extend(msrs.as_slice()[..taken].iter().map(|msr| (msr.index, msr.data)));
        // KVM's list has registers that this CPU may not have; it stops at the first of them.
        rest = &rest[(taken + usize::from(taken < batch.len()))..];
    }
    Ok(values)
}

/// Takes the state of CPU `id` out and gives it to a new one; `now` are the features that one would have.
pub fn restore(id: u8, cpu: &mut Vcpu, now: &CpuId, sections: &mut Sections) -> Result<(), SaveError> {
    let name = &name(id);
    let state: SavedCpu = sections.take(name)?;
    let leaves: Vec<_> = state.cpuid.iter().map(|leaf| leaf.0).collect();
    host::check(name, &leaves, now)?;
    let set = |what| kvm(what, name);
    cpu.set_features(&CpuId::from_entries(&leaves)?).map_err(set("take the features"))?;
    let vcpu = cpu.fd();
    if let Some(khz) = state.tsc_khz
        && vcpu.get_tsc_khz().ok() != Some(khz)
    {
        vcpu.set_tsc_khz(khz).map_err(set("take the frequency of the time stamp counter"))?;
    }
    // This order: the APIC base is a segment register here, the APIC's timer reads registers of the next step, and events
    // refer to everything.
    vcpu.set_mp_state(state.mp_state.0).map_err(set("take the run state"))?;
    vcpu.set_regs(&state.regs.0).map_err(set("take the registers"))?;
    vcpu.set_sregs(&state.sregs.0).map_err(set("take the segment registers"))?;
    sys::set_xsave(vcpu, &state.xsave.0).map_err(set("take the extended state"))?;
    // A host without XSAVE has none to tell and takes none.
    if state.xcrs.0.nr_xcrs > 0 {
        vcpu.set_xcrs(&state.xcrs.0).map_err(set("take the extended control registers"))?;
    }
    vcpu.set_debug_regs(&state.debug.0).map_err(set("take the debug registers"))?;
    vcpu.set_lapic(&state.lapic.0).map_err(set("take the local APIC"))?;
    write_msrs(name, vcpu, &state.msrs)?;
    vcpu.set_vcpu_events(&state.events.0).map_err(set("take the pending events"))
}

fn write_msrs(name: &str, vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), SaveError> {
    for batch in values.chunks(MSR_BATCH) {
        let entry = |(index, data): &(u32, u64)| kvm_msr_entry { index: *index, data: *data, ..Default::default() };
        let entries: Vec<_> = batch.iter().map(entry).collect();
        let taken =
            vcpu.set_msrs(&Msrs::from_entries(&entries)?).map_err(kvm("take the model specific registers", name))?;
        if let Some(refused) = entries.get(taken) {
            return Err(SaveError::Msr { name: name.to_owned(), index: refused.index });
        }
    }
    Ok(())
}
