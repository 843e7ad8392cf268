//! CPUID: what KVM supports on this host, with the leaves that tell of the topology made to fit the machine.
//!
//! Every virtual CPU is one core without siblings, all in one package. Kernels compare these leaves with the
//! MADT and with each other, and complain or misplace CPUs if they differ, so all of them are set.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Vendor, highest basic leaf.
const LEAF_VENDOR: u32 = 0x0;
/// Family, features, APIC id.
const LEAF_FEATURES: u32 = 0x1;
/// Intel: caches.
const LEAF_CACHES: u32 = 0x4;
/// Extended topology.
const LEAF_TOPOLOGY: u32 = 0xb;
/// Extended topology, second version.
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
/// Address sizes; AMD: number of cores.
const LEAF_SIZES: u32 = 0x8000_0008;
/// AMD: caches.
const LEAF_AMD_CACHES: u32 = 0x8000_001d;
/// AMD: topology.
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

const ECX_X2APIC: u32 = 1 << 21;
const ECX_TSC_DEADLINE: u32 = 1 << 24;
const ECX_HYPERVISOR: u32 = 1 << 31;
const EDX_HTT: u32 = 1 << 28;

/// Physical address bits of a CPU that does not tell.
const DEFAULT_ADDRESS_BITS: u8 = 36;

/// Physical address bits the CPU has.
pub fn address_bits(cpuid: &CpuId) -> u8 {
    cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == LEAF_SIZES)
        .map(|entry| entry.eax as u8)
        .filter(|bits| *bits != 0)
        .unwrap_or(DEFAULT_ADDRESS_BITS)
}

/// Bits of the APIC id that number `count` CPUs.
fn id_bits(count: u8) -> u32 {
    u32::from(count).next_power_of_two().trailing_zeros()
}

/// The features of virtual CPU `id` of `count`, from what KVM supports. `tsc_deadline`: KVM's own APIC has the
/// deadline timer; older kernels do not tell that in `supported`.
pub fn for_vcpu(supported: &CpuId, id: u8, count: u8, tsc_deadline: bool) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        .filter(|entry| !matches!(entry.function, LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2))
        .copied()
        .collect();
    let highest = entries.iter().find(|entry| entry.function == LEAF_VENDOR).map_or(0, |entry| entry.eax);
    for entry in &mut entries {
        adjust(entry, id, count, tsc_deadline);
    }
    if highest >= LEAF_TOPOLOGY {
        entries.extend(topology(LEAF_TOPOLOGY, id, count));
    }
    if highest >= LEAF_TOPOLOGY_V2 {
        entries.extend(topology(LEAF_TOPOLOGY_V2, id, count));
    }
    CpuId::from_entries(&entries)
}

fn adjust(entry: &mut kvm_cpuid_entry2, id: u8, count: u8, tsc_deadline: bool) {
    match entry.function {
        LEAF_FEATURES => {
            // Bits 31..24 are the APIC id, 23..16 the number of ids in the package; 15..0 stay.
            let ids = if count > 1 { 1u32 << id_bits(count).min(7) } else { 1 };
            entry.ebx = (entry.ebx & 0xffff) | (u32::from(id) << 24) | (ids << 16);
            entry.ecx |= ECX_HYPERVISOR | ECX_X2APIC;
            if tsc_deadline {
                entry.ecx |= ECX_TSC_DEADLINE;
            }
            entry.edx = if count > 1 { entry.edx | EDX_HTT } else { entry.edx & !EDX_HTT };
        }
        LEAF_CACHES => {
            // Bits 31..26: cores in the package less one (6 bits); 25..14: ids that share this cache less one.
            let level = (entry.eax >> 5) & 0x7;
            let ids = (1u32 << id_bits(count)) - 1;
            let shared = if level >= 3 { ids } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (ids.min(0x3f) << 26) | (shared << 14);
        }
        LEAF_SIZES => {
            // Bits 15..12: id bits; 7..0: cores less one.
            entry.ecx = (entry.ecx & !0xf0ff) | (id_bits(count) << 12) | u32::from(count - 1);
        }
        LEAF_AMD_CACHES => {
            let level = (entry.eax >> 5) & 0x7;
            let shared = if level >= 3 { u32::from(count - 1) } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (shared << 14);
        }
        LEAF_AMD_TOPOLOGY => {
            // Extended APIC id; core id with one thread each; one node.
            entry.eax = u32::from(id);
            entry.ebx = u32::from(id);
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// Sub-leaves of the extended topology: threads (one), cores (all), end.
fn topology(function: u32, id: u8, count: u8) -> [kvm_cpuid_entry2; 3] {
    let level = |index, bits, cpus, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: bits,
        ebx: cpus,
        ecx: (kind << 8) | index,
        edx: u32::from(id),
        ..Default::default()
    };
    [level(0, 0, 1, 1), level(1, id_bits(count), u32::from(count), 2), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = registers;
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid.as_slice().iter().find(|e| e.function == function && e.index == index).unwrap()
    }

    fn supported() -> CpuId {
        CpuId::from_entries(&[
            entry(LEAF_VENDOR, [0x1f, 0, 0, 0]),
            entry(LEAF_FEATURES, [0x306c3, 0x0510_0800, 0, 0]),
            entry(LEAF_CACHES, [0x163, 0, 0, 0]),
            entry(LEAF_TOPOLOGY, [9, 9, 9, 9]),
            entry(LEAF_SIZES, [0x3028, 0, 0x700f, 0]),
        ])
        .unwrap()
    }

    #[test]
    fn the_leaves_agree_on_the_topology() {
        let cpuid = for_vcpu(&supported(), 2, 3, true).unwrap();
        let features = find(&cpuid, LEAF_FEATURES, 0);
        assert_eq!(features.ebx, 0x0204_0800);
        assert_ne!(features.ecx & ECX_HYPERVISOR, 0);
        assert_ne!(features.ecx & ECX_TSC_DEADLINE, 0);
        assert_ne!(features.edx & EDX_HTT, 0);
        for leaf in [LEAF_TOPOLOGY, LEAF_TOPOLOGY_V2] {
            assert_eq!(find(&cpuid, leaf, 0).eax, 0);
            assert_eq!((find(&cpuid, leaf, 1).eax, find(&cpuid, leaf, 1).ebx), (2, 3));
            assert_eq!(find(&cpuid, leaf, 1).edx, 2);
        }
        assert_eq!(find(&cpuid, LEAF_CACHES, 0).eax, 0x163 | (3 << 26) | (3 << 14));
        assert_eq!(find(&cpuid, LEAF_SIZES, 0).ecx, 0x2002);
        assert_eq!(address_bits(&cpuid), 0x28);
    }

    #[test]
    fn a_single_cpu_has_no_siblings() {
        let cpuid = for_vcpu(&supported(), 0, 1, false).unwrap();
        let features = find(&cpuid, LEAF_FEATURES, 0);
        assert_eq!(features.edx & EDX_HTT, 0);
        assert_eq!(features.ebx >> 16, 1);
        assert_eq!(find(&cpuid, LEAF_TOPOLOGY, 1).ebx, 1);
    }
}
