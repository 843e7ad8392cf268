//! Devices on the PCI and USB busses.

use std::path::Path;

use berth_api::hardware::{ResourcesPci, ResourcesPciDevice, ResourcesUsb, ResourcesUsbDevice};

use super::{id, names, numa_node, number, target, text};

/// PCI devices.
pub fn pci(sys: &Path) -> ResourcesPci {
    let root = sys.join("bus/pci/devices");
    let device = |address: String| {
        let path = root.join(&address);
        ResourcesPciDevice {
            driver: target(&path.join("driver")),
            numa_node: numa_node(&path),
            vendor_id: id(&path.join("vendor")),
            product_id: id(&path.join("device")),
            iommu_group: target(&path.join("iommu_group")).parse().unwrap_or(0),
            pci_address: address,
        }
    };
    let devices: Vec<_> = names(&root).into_iter().map(device).collect();
    ResourcesPci { total: devices.len() as u64, devices }
}

/// USB devices, without the hubs that the controllers are.
pub fn usb(sys: &Path) -> ResourcesUsb {
    let root = sys.join("bus/usb/devices");
    // `1-2` is a device, `1-2:1.0` an interface of it, `usb1` a controller.
    let is_device = |name: &String| !name.contains(':') && !name.starts_with("usb");
    let device = |name: String| {
        let path = root.join(name);
        ResourcesUsbDevice {
            bus_address: number(&path.join("busnum")).unwrap_or(0),
            device_address: number(&path.join("devnum")).unwrap_or(0),
            product: text(&path.join("product")),
            product_id: id(&path.join("idProduct")),
            vendor: text(&path.join("manufacturer")),
            vendor_id: id(&path.join("idVendor")),
            speed: text(&path.join("speed")).parse().unwrap_or(0.0),
        }
    };
    let devices: Vec<_> = names(&root).into_iter().filter(is_device).map(device).collect();
    ResourcesUsb { total: devices.len() as u64, devices }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::fixture::tree;

    #[test]
    fn busses() {
        let sys = tree(&[
            ("bus/pci/devices/0000:00:01.0/vendor", "0x8086"),
            ("bus/pci/devices/0000:00:01.0/device", "0x1237"),
            ("bus/pci/devices/0000:00:01.0/numa_node", "-1"),
            ("bus/pci/devices/0000:00:01.0/driver", "->../../drivers/e1000"),
            ("bus/pci/devices/0000:00:01.0/iommu_group", "->../../iommu/7"),
            ("bus/usb/devices/usb1/idVendor", "1d6b"),
            ("bus/usb/devices/1-2/idVendor", "0627"),
            ("bus/usb/devices/1-2/busnum", "1"),
            ("bus/usb/devices/1-2/speed", "1.5"),
            ("bus/usb/devices/1-2:1.0/bInterfaceClass", "03"),
        ]);
        let pci = pci(sys.path());
        assert_eq!(pci.total, 1);
        let device = &pci.devices[0];
        assert_eq!((&*device.vendor_id, &*device.product_id, &*device.driver), ("8086", "1237", "e1000"));
        assert_eq!((device.numa_node, device.iommu_group), (0, 7));
        let usb = usb(sys.path());
        assert_eq!((usb.total, &*usb.devices[0].vendor_id, usb.devices[0].speed), (1, "0627", 1.5));
    }
}
