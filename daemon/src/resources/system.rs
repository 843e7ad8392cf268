//! The machine itself (SMBIOS).

use std::path::Path;

use berth_api::hardware::{ResourcesChassis, ResourcesFirmware, ResourcesMotherboard, ResourcesSystem};

use super::text;

/// What the firmware says of the machine.
pub fn system(sys: &Path, proc: &Path) -> ResourcesSystem {
    let dmi = |name: &str| text(&sys.join("class/dmi/id").join(name));
    let virtual_machine = text(&proc.join("cpuinfo")).split_whitespace().any(|word| word == "hypervisor");
    ResourcesSystem {
        uuid: dmi("product_uuid"),
        vendor: dmi("sys_vendor"),
        product: dmi("product_name"),
        family: dmi("product_family"),
        version: dmi("product_version"),
        sku: dmi("product_sku"),
        serial: dmi("product_serial"),
        kind: if virtual_machine { "virtual-machine" } else { "physical" }.to_owned(),
        firmware: ResourcesFirmware {
            vendor: dmi("bios_vendor"),
            date: dmi("bios_date"),
            version: dmi("bios_version"),
        },
        chassis: ResourcesChassis {
            vendor: dmi("chassis_vendor"),
            kind: dmi("chassis_type"),
            serial: dmi("chassis_serial"),
            version: dmi("chassis_version"),
        },
        motherboard: ResourcesMotherboard {
            vendor: dmi("board_vendor"),
            product: dmi("board_name"),
            serial: dmi("board_serial"),
            version: dmi("board_version"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::fixture::tree;

    #[test]
    fn a_virtual_machine() {
        let root = tree(&[
            ("sys/class/dmi/id/sys_vendor", "Berth"),
            ("sys/class/dmi/id/chassis_type", "1"),
            ("proc/cpuinfo", "flags\t: fpu hypervisor sse"),
        ]);
        let system = system(&root.path().join("sys"), &root.path().join("proc"));
        assert_eq!((&*system.vendor, &*system.chassis.kind, &*system.kind), ("Berth", "1", "virtual-machine"));
    }
}
