//! Where an access of the guest goes that neither memory nor KVM serves.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_devices::BusDevice;
use berth_devices::pci::PciRoot;
use berth_devices::saved::{Sections, StateError};

use crate::memory::{ECAM_SIZE, ECAM_START};

/// First of the PCI configuration ports.
const PCI_PORTS: u64 = 0xcf8;
/// Their number.
const PCI_PORT_COUNT: u64 = 8;

/// Two devices want the same ports.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("ports {start:#x} to {end:#x} are taken")]
pub struct Overlap {
    start: u64,
    end: u64,
}

struct Slot {
    start: u64,
    length: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// The ports and the device memory of a machine.
pub struct Buses {
    /// Sorted by start.
    ports: Vec<Slot>,
    pci: Mutex<PciRoot>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A device that panicked ended its vCPU thread and with it the machine; the others may go on to their stop.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Buses {
    /// Buses with nothing but PCI.
    pub fn new(pci: PciRoot) -> Self {
        Self { ports: Vec::new(), pci: Mutex::new(pci) }
    }

    /// Puts `device` at `length` ports from `start`.
    pub fn add_ports(&mut self, start: u64, length: u64, device: impl BusDevice + 'static) -> Result<(), Overlap> {
        let clash = |from: u64, count: u64| start < from + count && from < start + length;
        if clash(PCI_PORTS, PCI_PORT_COUNT) || self.ports.iter().any(|slot| clash(slot.start, slot.length)) {
            return Err(Overlap { start, end: start + length - 1 });
        }
        self.ports.push(Slot { start, length, device: Arc::new(Mutex::new(device)) });
        self.ports.sort_by_key(|slot| slot.start);
        Ok(())
    }

    fn port(&self, port: u64) -> Option<(&Slot, u64)> {
        let index = self.ports.partition_point(|slot| slot.start <= port).checked_sub(1)?;
        let slot = &self.ports[index];
        (port - slot.start < slot.length).then_some((slot, port - slot.start))
    }

    /// Holds all devices and adds their state; no CPU runs.
    pub fn save(&self, sections: &mut Sections) -> Result<(), StateError> {
        self.ports.iter().try_for_each(|slot| lock(&slot.device).save(sections))?;
        lock(&self.pci).save(sections)
    }

    /// Takes the state of the same devices out and continues it, once [`resume`](Self::resume) is called.
    pub fn restore(&self, sections: &mut Sections) -> Result<(), StateError> {
        self.ports.iter().try_for_each(|slot| lock(&slot.device).restore(sections))?;
        lock(&self.pci).restore(sections)
    }

    /// Lets all held devices go on.
    pub fn resume(&self) {
        lock(&self.pci).resume();
    }

    /// Tells the guest what the host has changed of devices.
    pub fn look_again(&self) -> io::Result<()> {
        lock(&self.pci).look_again()
    }

    /// The guest reads a port.
    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        let port = u64::from(port);
        if (PCI_PORTS..PCI_PORTS + PCI_PORT_COUNT).contains(&port) {
            return lock(&self.pci).port_read(port - PCI_PORTS, data);
        }
        match self.port(port) {
            Some((slot, offset)) => lock(&slot.device).read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes a port.
    pub fn port_write(&self, port: u16, data: &[u8]) {
        let port = u64::from(port);
        if (PCI_PORTS..PCI_PORTS + PCI_PORT_COUNT).contains(&port) {
            return lock(&self.pci).port_write(port - PCI_PORTS, data);
        }
        if let Some((slot, offset)) = self.port(port) {
            lock(&slot.device).write(offset, data);
        }
    }

    /// The guest reads memory that is none.
    pub fn memory_read(&self, address: u64, data: &mut [u8]) {
        if (ECAM_START..ECAM_START + ECAM_SIZE).contains(&address) {
            lock(&self.pci).ecam_read(address - ECAM_START, data);
        } else {
            // Fills with ones what no BAR decodes.
            lock(&self.pci).mmio_read(address, data);
        }
    }

    /// The guest writes memory that is none.
    pub fn memory_write(&self, address: u64, data: &[u8]) {
        if (ECAM_START..ECAM_START + ECAM_SIZE).contains(&address) {
            lock(&self.pci).ecam_write(address - ECAM_START, data);
        } else {
            lock(&self.pci).mmio_write(address, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Probe(Vec<u64>);

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&mut self, offset: u64, _: &[u8]) {
            self.0.push(offset);
        }

        fn save(&self, _: &mut Sections) -> Result<(), StateError> {
            Ok(())
        }

        fn restore(&mut self, _: &mut Sections) -> Result<(), StateError> {
            Ok(())
        }
    }

    #[test]
    fn ports_find_their_device() {
        let mut buses = Buses::new(PciRoot::new());
        buses.add_ports(0x3f8, 8, Probe::default()).unwrap();
        buses.add_ports(0x60, 5, Probe::default()).unwrap();
        assert!(buses.add_ports(0x3ff, 4, Probe::default()).is_err());
        assert!(buses.add_ports(0xcff, 1, Probe::default()).is_err());
        let read = |port| {
            let mut data = [0];
            buses.port_read(port, &mut data);
            data[0]
        };
        assert_eq!([read(0x3f8), read(0x3ff), read(0x64)], [0, 7, 4]);
        assert_eq!([read(0x400), read(0x65), read(0)], [0xff; 3]);
    }
}
