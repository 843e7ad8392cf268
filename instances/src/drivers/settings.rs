//! What of a virtual machine's devices can be changed while it runs, in the VMM's terms.

use berth_vmm::settings::{Change, DiskSettings, NicSettings, Rate};

use crate::devices::DiskRate;
use crate::nics::bytes;
use crate::plan::Plan;

/// Id of the root disk, also its serial number in the guest.
pub(crate) const ROOT: &str = "root";

/// Settings of the root disk.
pub(crate) fn root(plan: &Plan) -> DiskSettings {
    let limits = plan.root_limits;
    DiskSettings { read: rate(limits.read), write: rate(limits.write) }
}

fn rate(limit: Option<DiskRate>) -> Rate {
    match limit {
        None => Rate::default(),
        Some(DiskRate::Bytes(bytes)) => Rate { bytes: Some(bytes), operations: None },
        Some(DiskRate::Operations(operations)) => Rate { bytes: None, operations: Some(operations) },
    }
}

/// Settings of the network interface `device`.
pub(crate) fn nic(plan: &Plan, device: &str) -> NicSettings {
    let limits = plan.nic_limits.get(device).copied().unwrap_or_default();
    NicSettings { ingress: limits.ingress.map(bytes), egress: limits.egress.map(bytes) }
}

/// Settings of all devices.
pub(crate) fn change(plan: &Plan) -> Change {
    let nics = plan.nic_limits.keys().map(|device| (device.clone(), nic(plan, device))).collect();
    Change { disks: [(ROOT.to_owned(), root(plan))].into(), nics }
}
