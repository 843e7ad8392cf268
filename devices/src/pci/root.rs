//! The root bus: bus 0 with a host bridge at 00:00.0 and up to 31 devices.

use std::io;

use serde::{Deserialize, Serialize};
use tracing::debug;

use super::{BarRequest, ConfigSpace, Identity, PciDevice};
use crate::saved::{Saved, Sections, StateError};

/// Slots of a bus; slot 0 is the host bridge.
const SLOTS: usize = 32;
/// ECAM: 4 KiB for each of 8 functions of 32 devices.
const DEVICE_SHIFT: u32 = 15;
const FUNCTION_SHIFT: u32 = 12;
/// Vendor and device of the host bridge. (A bridge of Intel's that needs no driver and that every guest knows.)
const BRIDGE: Identity =
    Identity { vendor: 0x8086, device: 0x0d57, revision: 0, class: 0x06_0000, subsystem_vendor: 0, subsystem: 0 };

/// Why the bus refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PciError {
    /// All 31 slots are taken.
    #[error("PCI bus 0 is full: it has place for 31 devices; remove a disk or network device from the instance")]
    Full,
}

/// Told when the guest moved a BAR or switched its decoding.
pub trait BarListener: Send {
    /// BAR `bar` of the device in `slot` decoded at `old` and decodes at `new` now; `None` is nowhere.
    fn moved(&mut self, slot: u8, bar: u8, old: Option<u64>, new: Option<u64>);
}

/// The bus itself as saved state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedRoot {
    slots: usize,
    bridge: Vec<u8>,
    address: u32,
}

impl Saved for SavedRoot {
    const KIND: &'static str = "pci-root";
    const VERSION: u32 = 1;
}

/// Name of the bus in saved state.
const NAME: &str = "pci";

struct Bar {
    request: BarRequest,
    address: Option<u64>,
}

struct Slot {
    device: Box<dyn PciDevice>,
    bars: Vec<Bar>,
}

/// Bus 0. The machine keeps it behind a mutex: accesses of vCPUs to ECAM, to the configuration ports and to the BAR
/// window all end here. The fast paths (ioeventfd, irqfd) do not.
pub struct PciRoot {
    bridge: ConfigSpace,
    /// Slot n + 1.
    slots: Vec<Slot>,
    listener: Option<Box<dyn BarListener>>,
    /// The address port 0xcf8.
    address: u32,
}

impl Default for PciRoot {
    fn default() -> Self {
        Self::new()
    }
}

impl PciRoot {
    /// A bus with nothing but its host bridge.
    pub fn new() -> Self {
        Self { bridge: ConfigSpace::new(BRIDGE), slots: Vec::new(), listener: None, address: 0 }
    }

    /// Sets who is told of moved BARs. (virtio devices move their own ioeventfds.)
    pub fn set_bar_listener(&mut self, listener: Box<dyn BarListener>) {
        self.listener = Some(listener);
    }

    /// Puts `device` into the next free slot and returns its number, 1..=31. The machine then places its BARs with
    /// [`set_bar_address`](Self::set_bar_address).
    pub fn add(&mut self, device: Box<dyn PciDevice>) -> Result<u8, PciError> {
        if self.slots.len() + 1 >= SLOTS {
            return Err(PciError::Full);
        }
        let bars = device.bars().into_iter().map(|request| Bar { request, address: None }).collect();
        self.slots.push(Slot { device, bars });
        Ok(self.slots.len() as u8)
    }

    fn slot(&mut self, slot: u8) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(slot).checked_sub(1)?)
    }

    /// The BARs of the device in `slot`.
    pub fn bars(&self, slot: u8) -> Vec<BarRequest> {
        let slot = usize::from(slot).checked_sub(1).and_then(|index| self.slots.get(index));
        slot.map(|slot| slot.bars.iter().map(|bar| bar.request).collect()).unwrap_or_default()
    }

    /// Places BAR `index` of the device in `slot` and switches memory decoding of the device on.
    pub fn set_bar_address(&mut self, slot: u8, index: u8, addr: u64) {
        if let Some(entry) = self.slot(slot) {
            entry.device.set_bar_address(index, addr);
            self.refresh(slot);
        }
    }

    /// Looks where the BARs of a device are now.
    fn refresh(&mut self, number: u8) {
        let Some(slot) = self.slots.get_mut(usize::from(number) - 1) else { return };
        for bar in &mut slot.bars {
            let new = slot.device.bar_address(bar.request.index);
            let old = std::mem::replace(&mut bar.address, new);
            if old != new {
                debug!(slot = number, bar = bar.request.index, ?old, ?new, "BAR moved");
                if let Some(listener) = &mut self.listener {
                    listener.moved(number, bar.request.index, old, new);
                }
            }
        }
    }

    /// Slot and register of an ECAM offset; `None` where no function answers.
    fn decode(&self, offset: u64) -> Option<(u8, u16)> {
        let slot = offset >> DEVICE_SHIFT;
        let function = offset >> FUNCTION_SHIFT & 7;
        let present = function == 0 && slot <= self.slots.len() as u64;
        present.then_some((slot as u8, (offset & 0xfff) as u16))
    }

    /// Reads the ECAM window, `offset` from its start (bus 0: 1 MiB).
    pub fn ecam_read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        match self.decode(offset) {
            Some((0, register)) => self.bridge.read(register, data),
            Some((slot, register)) => {
                if let Some(slot) = self.slot(slot) {
                    slot.device.config_read(register, data);
                }
            }
            None => {}
        }
    }

    /// Writes the ECAM window.
    pub fn ecam_write(&mut self, offset: u64, data: &[u8]) {
        match self.decode(offset) {
            Some((0, register)) => self.bridge.write(register, data),
            Some((slot, register)) => {
                if let Some(entry) = self.slot(slot) {
                    entry.device.config_write(register, data);
                    self.refresh(slot);
                }
            }
            None => {}
        }
    }

    /// ECAM offset that the address port points at, for the data port `port` (0..4); only bus 0 exists.
    fn port_target(&self, port: u64) -> Option<u64> {
        let enabled = self.address & 1 << 31 != 0;
        let bus = self.address >> 16 & 0xff;
        let function = u64::from(self.address >> 8 & 0xff);
        let register = u64::from(self.address & 0xfc) + port;
        (enabled && bus == 0).then_some(function << FUNCTION_SHIFT | register)
    }

    /// Reads the configuration ports, `offset` from 0xcf8 (8 ports).
    pub fn port_read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (4..8, len) if offset as usize + len <= 8 => {
                if let Some(target) = self.port_target(offset - 4) {
                    self.ecam_read(target, data);
                }
            }
            _ => {}
        }
    }

    /// Writes the configuration ports.
    pub fn port_write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, &[a, b, c, d]) => self.address = u32::from_le_bytes([a, b, c, d]),
            (4..8, data) if offset as usize + data.len() <= 8 => {
                if let Some(target) = self.port_target(offset - 4) {
                    self.ecam_write(target, data);
                }
            }
            _ => {}
        }
    }

    /// Holds all devices and adds their state.
    pub fn save(&mut self, sections: &mut Sections) -> Result<(), StateError> {
        let root = SavedRoot { slots: self.slots.len(), bridge: self.bridge.saved(), address: self.address };
        sections.add(NAME, &root)?;
        self.slots.iter_mut().try_for_each(|slot| slot.device.save(sections))
    }

    /// Takes the state of the same devices out and continues it, once [`resume`](Self::resume) is called.
    pub fn restore(&mut self, sections: &mut Sections) -> Result<(), StateError> {
        let root: SavedRoot = sections.take(NAME)?;
        StateError::if_changed("number of PCI devices", &root.slots, &self.slots.len())?;
        if !self.bridge.restore(&root.bridge) {
            return Err(StateError::payload::<SavedRoot>(NAME, "its host bridge is another one"));
        }
        self.address = root.address;
        for slot in 1..=self.slots.len() as u8 {
            if let Some(entry) = self.slot(slot) {
                entry.device.restore(sections)?;
            }
            self.refresh(slot);
        }
        Ok(())
    }

    /// Lets all held devices go on.
    pub fn resume(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.device.resume());
    }

    /// Has all devices tell their drivers what the host has changed.
    pub fn look_again(&mut self) -> io::Result<()> {
        self.slots.iter_mut().try_for_each(|slot| slot.device.look_again())
    }

    /// The device, BAR and offset that decode `addr`.
    fn hit(&mut self, addr: u64) -> Option<(&mut dyn PciDevice, u8, u64)> {
        self.slots.iter_mut().find_map(|slot| {
            let bar = slot.bars.iter().find_map(|bar| {
                let offset = addr.checked_sub(bar.address?)?;
                (offset < bar.request.size).then_some((bar.request.index, offset))
            })?;
            Some((&mut *slot.device as &mut dyn PciDevice, bar.0, bar.1))
        })
    }

    /// Reads guest physical `addr` if a BAR decodes it; otherwise fills `data` with ones and returns false.
    pub fn mmio_read(&mut self, addr: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        let Some((device, bar, offset)) = self.hit(addr) else { return false };
        device.bar_read(bar, offset, data);
        true
    }

    /// Writes guest physical `addr` if a BAR decodes it; otherwise returns false.
    pub fn mmio_write(&mut self, addr: u64, data: &[u8]) -> bool {
        let Some((device, bar, offset)) = self.hit(addr) else { return false };
        device.bar_write(bar, offset, data);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    struct Scratch {
        config: ConfigSpace,
        cell: u8,
    }

    impl PciDevice for Scratch {
        fn config_read(&mut self, register: u16, data: &mut [u8]) {
            self.config.read(register, data);
        }
        fn config_write(&mut self, register: u16, data: &[u8]) {
            self.config.write(register, data);
        }
        fn bars(&self) -> Vec<BarRequest> {
            self.config.bars().to_vec()
        }
        fn set_bar_address(&mut self, index: u8, addr: u64) {
            self.config.set_bar_address(index, addr);
        }
        fn bar_address(&self, index: u8) -> Option<u64> {
            self.config.bar_address(index)
        }
        fn bar_read(&mut self, _index: u8, offset: u64, data: &mut [u8]) {
            data.fill(self.cell.wrapping_add(offset as u8));
        }
        fn bar_write(&mut self, _index: u8, _offset: u64, data: &[u8]) {
            self.cell = data[0];
        }
        fn save(&mut self, _sections: &mut Sections) -> Result<(), StateError> {
            Ok(())
        }
        fn restore(&mut self, _sections: &mut Sections) -> Result<(), StateError> {
            Ok(())
        }
        fn resume(&mut self) {}
        fn look_again(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn scratch() -> Box<Scratch> {
        let mut config = ConfigSpace::new(Identity { vendor: 0x1234, device: 0x5678, ..BRIDGE });
        config.add_bar(BarRequest { index: 0, size: 0x1000 });
        Box::new(Scratch { config, cell: 0 })
    }

    struct Log(Sender<(u8, u8, Option<u64>, Option<u64>)>);
    impl BarListener for Log {
        fn moved(&mut self, slot: u8, bar: u8, old: Option<u64>, new: Option<u64>) {
            self.0.send((slot, bar, old, new)).unwrap();
        }
    }

    #[test]
    fn devices_are_found_and_their_bars_follow_the_guest() {
        let mut root = PciRoot::new();
        let (sender, moves) = channel();
        root.set_bar_listener(Box::new(Log(sender)));
        assert_eq!(root.add(scratch()), Ok(1));
        assert_eq!(root.bars(1), [BarRequest { index: 0, size: 0x1000 }]);
        root.set_bar_address(1, 0, 0xc000_0000);
        assert_eq!(moves.try_recv(), Ok((1, 0, None, Some(0xc000_0000))));
        let mut data = [0; 4];
        root.ecam_read(1 << 15, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x5678_1234);
        root.ecam_read(2 << 15, &mut data);
        assert_eq!(data, [0xff; 4]);
        assert!(root.mmio_write(0xc000_0000, &[7]));
        root.ecam_write(1 << 15 | 0x10, &0xd000_0000u32.to_le_bytes());
        assert_eq!(moves.try_recv(), Ok((1, 0, Some(0xc000_0000), Some(0xd000_0000))));
        assert!(!root.mmio_read(0xc000_0000, &mut data));
        assert!(root.mmio_read(0xd000_0001, &mut data));
        assert_eq!(data, [8; 4]);
    }

    #[test]
    fn ports_reach_the_same_registers() {
        let mut root = PciRoot::new();
        root.add(scratch()).unwrap();
        root.port_write(0, &(1u32 << 31 | 1 << 11).to_le_bytes());
        let mut word = [0; 2];
        root.port_read(6, &mut word);
        assert_eq!(u16::from_le_bytes(word), 0x5678);
        root.port_write(0, &(1u32 << 31 | 1 << 16).to_le_bytes());
        root.port_read(4, &mut word);
        assert_eq!(word, [0xff; 2]);
        root.port_write(0, &(1u32 << 31).to_le_bytes());
        root.port_read(4, &mut word);
        assert_eq!(u16::from_le_bytes(word), 0x8086);
    }

    #[test]
    fn the_bus_has_31_places() {
        let mut root = PciRoot::new();
        for slot in 1..=31 {
            assert_eq!(root.add(scratch()), Ok(slot));
        }
        assert_eq!(root.add(scratch()), Err(PciError::Full));
    }
}
