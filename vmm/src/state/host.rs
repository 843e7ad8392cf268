//! Whether the CPU a machine was saved on can be continued on this one.

use berth_devices::saved::StateError;
use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// A leaf, a sub-leaf, and the registers of it that hold feature bits.
type Features = (u32, u32, fn(&kvm_cpuid_entry2) -> [u32; 4]);

/// Leaves whose bits a guest may rely on; others hold numbers that may differ.
const FEATURES: [Features; 6] = [
    (0x1, 0, |leaf| [0, 0, leaf.ecx, leaf.edx]),
    (0x7, 0, |leaf| [0, leaf.ebx, leaf.ecx, leaf.edx]),
    (0x7, 1, |leaf| [leaf.eax, 0, 0, 0]),
    (0xd, 0, |leaf| [leaf.eax, 0, 0, leaf.edx]),
    (0x8000_0001, 0, |leaf| [0, 0, leaf.ecx, leaf.edx]),
    (0x4000_0001, 0, |leaf| [leaf.eax, 0, 0, 0]),
];

fn find(leaves: &[kvm_cpuid_entry2], function: u32, index: u32) -> Option<&kvm_cpuid_entry2> {
    leaves.iter().find(|leaf| leaf.function == function && leaf.index == index)
}

/// Fails if a CPU with the leaves `saved` has features that a new one, with the leaves `now`, would not have.
pub fn check(name: &str, saved: &[kvm_cpuid_entry2], now: &CpuId) -> Result<(), StateError> {
    let now = now.as_slice();
    // Vendor and signature (family, model, stepping).
    let vendor = |leaf: &kvm_cpuid_entry2| [leaf.ebx, leaf.ecx, leaf.edx];
    let vendors = [saved, now].map(|leaves| find(leaves, 0, 0).map(vendor));
    StateError::if_changed(&format!("CPU vendor of {name}"), &vendors[0], &vendors[1])?;
    let signatures = [saved, now].map(|leaves| find(leaves, 1, 0).map(|leaf| leaf.eax));
    StateError::if_changed(&format!("CPU model of {name}"), &signatures[0], &signatures[1])?;
    for (function, index, bits) in FEATURES {
        let had = find(saved, function, index).map_or([0; 4], bits);
        let has = find(now, function, index).map_or([0; 4], bits);
        if had.iter().zip(has).any(|(had, has)| had & !has != 0) {
            let what = format!("set of CPU features of {name} (leaf {function:#x})");
            return Err(StateError::Changed { what, saved: format!("{had:x?}"), now: format!("{has:x?}") });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
    }

    #[test]
    fn features_may_come_but_not_go() {
        let saved = [leaf(0, [1, 7, 7, 7]), leaf(1, [5, 99, 0b0110, 0])];
        let host = |vendor, model, features| {
            CpuId::from_entries(&[leaf(0, [9, vendor, 7, 7]), leaf(1, [model, 0, features, 0])]).unwrap()
        };
        assert!(check("cpu0", &saved, &host(7, 5, 0b0110)).is_ok());
        assert!(check("cpu0", &saved, &host(7, 5, 0b1111)).is_ok());
        for other in [host(7, 5, 0b0100), host(8, 5, 0b0110), host(7, 6, 0b0110)] {
            let error = check("cpu0", &saved, &other).unwrap_err();
            assert!(error.to_string().contains("CPU"), "{error}");
        }
    }
}
