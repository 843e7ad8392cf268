//! A virtio device behind its PCI function, whose state is saved and restored.

use vmm_sys_util::eventfd::EventFd;

use super::{DriverQueue, FakeKicks, FakeMsix, memory};
use crate::Memory;
use crate::pci::{MsixBackend, PciDevice, msix};
use crate::saved::{Sections, StateError};
use crate::virtio::state::status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET};
use crate::virtio::{VirtioDevice, VirtioPci};

const BAR: u64 = 0x10_0000_0000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const TABLE: u64 = 0x4000;

/// A function with its driver.
pub struct Function {
    pub pci: VirtioPci,
    pub memory: Memory,
    pub queues: Vec<DriverQueue>,
    irqfds: Vec<EventFd>,
}

fn place(device: Box<dyn VirtioDevice>, memory: &Memory) -> (VirtioPci, Vec<EventFd>) {
    let count = VirtioPci::vectors(&*device);
    let (msix, _log) = FakeMsix::new(count);
    let irqfds = (0..count).map(|vector| msix.irqfd(vector).try_clone().unwrap()).collect();
    let kicks = Box::new(FakeKicks::default());
    let mut pci = VirtioPci::new("dev0", device, memory.clone(), msix, kicks).unwrap();
    pci.set_bar_address(0, BAR);
    (pci, irqfds)
}

impl Function {
    /// Sets `device` up as a driver does that wants `features`.
    pub fn start(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let memory = memory();
        let sizes = device.queue_sizes().to_vec();
        let (pci, irqfds) = place(device, &memory);
        let queues = (0u16..).zip(&sizes).map(|(index, size)| DriverQueue::new(&memory, index, *size)).collect();
        let mut this = Self { pci, memory, queues, irqfds };
        this.enable_msix();
        for vector in 0..this.irqfds.len() as u64 {
            this.put(TABLE + vector * 16 + 12, 4, 0);
        }
        this.put(0x10, 2, 0);
        this.put(0x14, 1, (ACKNOWLEDGE | DRIVER).into());
        for (page, value) in [(0, features), (1, 1 | features >> 32)] {
            this.put(0x08, 4, page);
            this.put(0x0c, 4, value);
        }
        this.put(0x14, 1, (ACKNOWLEDGE | DRIVER | FEATURES_OK).into());
        for index in 0..this.queues.len() {
            let queue = &this.queues[index];
            let rings = [(0x20, queue.descriptors()), (0x28, queue.available_ring()), (0x30, queue.used_ring())];
            this.put(0x16, 2, index as u64);
            this.put(0x1a, 2, index as u64 + 1);
            rings.into_iter().for_each(|(register, address)| this.put(register, 8, address));
            this.put(0x1c, 2, 1);
        }
        this.put(0x14, 1, (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK).into());
        this
    }

    fn enable_msix(&mut self) {
        let mut at = [0x34];
        loop {
            let mut header = [0; 2];
            self.pci.config_read(at[0], &mut header);
            if header[0] == msix::CAPABILITY_ID {
                return self.pci.config_write(at[0] + 2, &[0, 0x80]);
            }
            at[0] = if at[0] == 0x34 { header[0] } else { header[1] }.into();
        }
    }

    fn put(&mut self, offset: u64, width: usize, value: u64) {
        self.pci.bar_write(0, offset, &value.to_le_bytes()[..width]);
    }

    pub fn kick(&mut self, index: usize) {
        self.put(NOTIFY + index as u64 * 4, 2, index as u64);
    }

    /// Waits for the next used element of queue `index`.
    pub fn wait_used(&mut self, index: usize) -> (u16, u32) {
        self.queues[index].wait_used(&self.irqfds[index + 1])
    }

    /// Makes a chain available, notifies, waits for it to be used; returns the length written.
    pub fn request(&mut self, index: usize, buffers: &[(u64, u32, bool)]) -> u32 {
        let head = self.queues[index].add(buffers);
        self.kick(index);
        let (used, len) = self.wait_used(index);
        assert_eq!(used, head);
        len
    }

    /// Whether the device has told of a change of its configuration since this was asked last.
    pub fn told_of_change(&self) -> bool {
        self.irqfds[0].read().is_ok()
    }

    /// The first 8 bytes of the device's configuration.
    pub fn configuration(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.pci.bar_read(0, DEVICE, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    pub fn broken(&self) -> bool {
        self.pci.state().status() & NEEDS_RESET != 0
    }

    /// Saves; the device is held.
    pub fn save(&mut self) -> Sections {
        let mut sections = Sections::new();
        self.pci.save(&mut sections).unwrap();
        sections
    }

    /// The driver goes on with `device`, which continues `sections` once it is resumed.
    pub fn restore(self, device: Box<dyn VirtioDevice>, sections: &Sections) -> Result<Self, StateError> {
        let Self { pci, memory, queues, .. } = self;
        // The old process is gone before the new one begins.
        drop(pci);
        let (mut pci, irqfds) = place(device, &memory);
        let mut left = sections.clone();
        pci.restore(&mut left)?;
        left.finish()?;
        Ok(Self { pci, memory, queues, irqfds })
    }

    /// Moves the state to `device` and checks that it has all of it; the device goes on.
    pub fn move_to(mut self, device: Box<dyn VirtioDevice>) -> Self {
        let sections = self.save();
        let mut moved = self.restore(device, &sections).unwrap();
        assert!(moved.save() == sections, "saving again gives the same");
        moved.pci.resume();
        moved
    }
}
