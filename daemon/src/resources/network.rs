//! Network cards.

use std::{collections::BTreeMap, fs, path::Path};

use berth_api::hardware::{ResourcesNetwork, ResourcesNetworkCard, ResourcesNetworkPort};

use super::{id, names, numa_node, number, target, text};

/// Cards with their ports; interfaces without a device behind them are none.
pub fn cards(sys: &Path) -> ResourcesNetwork {
    let root = sys.join("class/net");
    let mut cards: BTreeMap<std::path::PathBuf, ResourcesNetworkCard> = BTreeMap::new();
    for name in names(&root) {
        let path = root.join(&name);
        let Ok(device) = fs::canonicalize(path.join("device")) else { continue };
        let card = cards.entry(device).or_insert_with_key(|device| card(device));
        card.ports.push(port(&path, name));
    }
    let cards: Vec<_> = cards.into_values().collect();
    ResourcesNetwork { total: cards.len() as u64, cards }
}

fn card(device: &Path) -> ResourcesNetworkCard {
    // A virtio device hangs on a PCI device, which has the address.
    let on = |bus: &str| device.ancestors().find(|path| target(&path.join("subsystem")) == bus);
    let address =
        |bus: &str| on(bus).and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())).unwrap_or_default();
    let pci = on("pci").unwrap_or(device);
    ResourcesNetworkCard {
        driver: target(&device.join("driver")),
        ports: Vec::new(),
        numa_node: numa_node(pci),
        pci_address: address("pci"),
        usb_address: if on("usb").is_some() {
            let usb = on("usb").unwrap_or(device);
            let number_of =
                |attribute: &str| number(&usb.join(attribute)).or_else(|| number(&usb.join("..").join(attribute)));
            format!("{}:{}", number_of("busnum").unwrap_or(0), number_of("devnum").unwrap_or(0))
        } else {
            String::new()
        },
        vendor_id: id(&pci.join("vendor")),
        product_id: id(&pci.join("device")),
    }
}

fn port(path: &Path, name: String) -> ResourcesNetworkPort {
    // Numbers of ARP hardware types (if_arp.h).
    let protocol = match number(&path.join("type")) {
        Some(1) => "ethernet",
        Some(32) => "infiniband",
        _ => "unknown",
    };
    ResourcesNetworkPort {
        id: name,
        address: text(&path.join("address")),
        port: number(&path.join("dev_port")).unwrap_or(0),
        protocol: protocol.to_owned(),
        auto_negotiation: false,
        link_detected: number(&path.join("carrier")) == Some(1),
        // -1 is unknown.
        link_speed: number(&path.join("speed")).unwrap_or(0),
        link_duplex: Some(text(&path.join("duplex"))).filter(|duplex| duplex != "unknown").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::fixture::tree;

    #[test]
    fn a_virtio_card() {
        let sys = tree(&[
            ("devices/pci/0000:00:03.0/vendor", "0x1af4"),
            ("devices/pci/0000:00:03.0/device", "0x1041"),
            ("devices/pci/0000:00:03.0/subsystem", "->../../../bus/pci"),
            ("devices/pci/0000:00:03.0/virtio0/driver", "->../../../../drivers/virtio_net"),
            ("devices/pci/0000:00:03.0/virtio0/subsystem", "->../../../../bus/virtio"),
            ("class/net/eth0/device", "->../../../devices/pci/0000:00:03.0/virtio0"),
            ("class/net/eth0/address", "00:16:3e:00:00:01"),
            ("class/net/eth0/carrier", "1"),
            ("class/net/eth0/speed", "-1"),
            ("class/net/eth0/type", "1"),
            ("class/net/lo/address", "00:00:00:00:00:00"),
        ]);
        let network = cards(sys.path());
        let [card] = &network.cards[..] else { panic!("{network:?}") };
        assert_eq!((&*card.driver, &*card.pci_address, &*card.vendor_id), ("virtio_net", "0000:00:03.0", "1af4"));
        let [port] = &card.ports[..] else { panic!("{card:?}") };
        assert_eq!((&*port.id, port.link_detected, port.link_speed, &*port.protocol), ("eth0", true, 0, "ethernet"));
    }
}
