//! The machine itself (SMBIOS).

use std::path::Path;

use berth_api::hardware::{ResourcesChassis, ResourcesFirmware, ResourcesMotherboard, ResourcesSystem};

use super::text;

/// What the firmware says of the machine.
pub fn system(sys: &Path) -> ResourcesSystem {
    let dmi = |name: &str| text(&sys.join("class/dmi/id").join(name));
    let virtual_machine = text(Path::new("/proc/cpuinfo")).split_whitespace().any(|word| word == "hypervisor");
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
