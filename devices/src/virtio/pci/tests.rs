use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::pci::{MsixBackend, PciDevice, PciRoot};
use crate::rng::Rng;
use crate::saved::{Sections, StateError};
use crate::test_utils::{DATA, DriverQueue, FakeKicks, FakeMsix, VectorLog, confined, memory, wait_for};
use crate::virtio::state::status::*;
use crate::virtio::{ActivateError, Activation, QueuePosition, VirtioDevice, device_type};

const VERSION_1: u64 = 1;
const ALL: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK;

/// What a [`Probe`] saw.
#[derive(Default)]
struct Seen {
    features: u64,
    queues: Vec<u16>,
    resets: u32,
    activation: Option<Activation>,
    config: [u8; 8],
}

struct Probe(Arc<Mutex<Seen>>);

impl VirtioDevice for Probe {
    fn device_type(&self) -> u32 {
        device_type::NET
    }
    fn queue_sizes(&self) -> &[u16] {
        &[64, 16]
    }
    fn features(&self) -> u64 {
        1 << 5
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::virtio::device::read_space(&self.0.lock().unwrap().config, offset, data);
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset as usize..8).zip(data) {
            self.0.lock().unwrap().config[at] = *byte;
        }
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut seen = self.0.lock().unwrap();
        seen.features = activation.features;
        seen.queues = activation.queues.iter().map(|queue| queue.index()).collect();
        seen.activation = Some(activation);
        Ok(())
    }
    fn hold(&mut self) -> Vec<QueuePosition> {
        let seen = self.0.lock().unwrap();
        seen.activation.iter().flat_map(|active| active.queues.iter().map(|queue| queue.position(0))).collect()
    }
    fn resume(&mut self) {}
    fn save(&self, _name: &str, _sections: &mut Sections) -> Result<(), StateError> {
        Ok(())
    }
    fn restore(&mut self, _name: &str, _sections: &mut Sections) -> Result<(), StateError> {
        Ok(())
    }
    fn reset(&mut self) {
        let mut seen = self.0.lock().unwrap();
        seen.resets += 1;
        seen.activation = None;
    }
}

struct Rig {
    pci: VirtioPci,
    seen: Arc<Mutex<Seen>>,
    kicks: FakeKicks,
    vectors: VectorLog,
}

fn rig() -> Rig {
    let (memory, kicks, seen) = (memory(), FakeKicks::default(), Arc::<Mutex<Seen>>::default());
    let device = Box::new(Probe(seen.clone()));
    let (msix, vectors) = FakeMsix::new(VirtioPci::vectors(&*device));
    let mut pci = VirtioPci::new("t", device, memory, msix, Box::new(kicks.clone())).unwrap();
    pci.set_bar_address(0, 0x10_0000_0000);
    Rig { pci, seen, kicks, vectors }
}

impl Rig {
    fn get(&mut self, offset: u64, width: usize) -> u64 {
        let mut data = [0; 8];
        self.pci.bar_read(0, offset, &mut data[..width]);
        u64::from_le_bytes(data)
    }

    fn put(&mut self, offset: u64, width: usize, value: u64) {
        self.pci.bar_write(0, offset, &value.to_le_bytes()[..width]);
    }

    fn status(&mut self) -> u8 {
        self.get(0x14, 1) as u8
    }

    fn negotiate(&mut self) {
        self.put(0x14, 1, ACKNOWLEDGE.into());
        self.put(0x14, 1, (ACKNOWLEDGE | DRIVER).into());
        self.put(0x08, 4, 1);
        self.put(0x0c, 4, VERSION_1);
        self.put(0x14, 1, ALL.into());
    }

    fn set_queue(&mut self, index: u64, base: u64) {
        self.put(0x16, 2, index);
        self.put(0x18, 2, 16);
        self.put(0x1a, 2, index + 1);
        self.put(0x20, 4, base);
        self.put(0x24, 4, base >> 32);
        self.put(0x28, 8, base + 0x1000);
        self.put(0x30, 8, base + 0x2000);
        self.put(0x1c, 2, 1);
    }

    fn run(&mut self) {
        self.negotiate();
        self.set_queue(0, 0x1000);
        self.set_queue(1, 0x8000);
        self.put(0x14, 1, (ALL | DRIVER_OK).into());
    }
}

#[test]
fn a_driver_finds_its_way() {
    let mut rig = rig();
    let mut ids = [0; 4];
    rig.pci.config_read(0, &mut ids);
    assert_eq!(u32::from_le_bytes(ids), 0x1041_1af4);
    // Walk the capabilities as a driver does.
    let (mut kinds, mut at) = (Vec::new(), [0; 1]);
    rig.pci.config_read(0x34, &mut at);
    while at[0] != 0 {
        let mut head = [0; 4];
        rig.pci.config_read(at[0].into(), &mut head);
        kinds.push(if head[0] == 0x11 { 0 } else { head[3] });
        at[0] = head[1];
    }
    assert_eq!(kinds, [0, 1, 3, 4, 2, 5]);
    assert_eq!(rig.get(0x12, 2), 2);
    assert_eq!(rig.get(0x04, 4), 1 << 5 | 1 << 28 | 1 << 29);
    rig.put(0x00, 4, 1);
    assert_eq!(rig.get(0x04, 4), VERSION_1);
}

#[test]
fn a_driver_brings_the_device_up_and_down() {
    let mut rig = rig();
    rig.run();
    assert_eq!(rig.status(), ALL | DRIVER_OK);
    assert_eq!(rig.seen.lock().unwrap().queues, [0, 1]);
    assert_eq!(rig.seen.lock().unwrap().features, 1 << 32);
    assert_eq!(*rig.kicks.0.lock().unwrap(), [0x10_0000_3000, 0x10_0000_3004]);
    // The guest moves the BAR: notifications follow.
    rig.pci.config_write(0x10, &0x20_0000_0000u64.to_le_bytes());
    assert_eq!(*rig.kicks.0.lock().unwrap(), [0x20_0000_3000, 0x20_0000_3004]);
    rig.pci.config_write(0x04, &[0]);
    assert!(rig.kicks.0.lock().unwrap().is_empty());
    rig.pci.config_write(0x04, &[6]);
    rig.put(0x14, 1, 0);
    assert_eq!((rig.status(), rig.seen.lock().unwrap().resets), (0, 1));
    assert!(rig.kicks.0.lock().unwrap().is_empty());
    rig.put(0x16, 2, 0);
    assert_eq!(rig.get(0x1a, 2), 0xffff);
    rig.run();
    assert_eq!(rig.status(), ALL | DRIVER_OK);
}

#[test]
fn interrupts_go_where_the_driver_wants_them() {
    let mut rig = rig();
    rig.run();
    for vector in 0..3u64 {
        let entry = TABLE + vector * 16;
        rig.put(entry, 8, 0xfee0_0000);
        rig.put(entry + 8, 4, 0x30 + vector);
        rig.put(entry + 12, 4, 0);
    }
    let raise = |rig: &Rig| {
        let seen = rig.seen.lock().unwrap();
        seen.activation.as_ref().unwrap().interrupt.config_changed();
    };
    raise(&rig);
    assert_eq!(rig.get(ISR, 1), 2, "without MSI-X the status register tells");
    assert_eq!(rig.get(ISR, 1), 0);
    rig.put(0x10, 2, 2);
    assert_eq!(rig.get(0x10, 2), 2);
    let control = rig.pci_msix_control();
    rig.pci.config_write(control, &[0x02, 0x80]);
    assert_eq!(rig.vectors.take().len(), 3);
    raise(&rig);
    assert_eq!(rig.get(ISR, 1), 0);
    rig.pci.config_write(control, &[0x02, 0xc0]);
    assert_eq!(rig.get(PENDING, 8), 1 << 2, "the fake delivers nothing, so vector 2 is pending");
    assert_eq!(rig.get(0x15, 1), 2);
    rig.put(0x10, 2, 3);
    assert_eq!(rig.get(0x10, 2), 0xffff, "there is no vector 3");
}

impl Rig {
    fn pci_msix_control(&mut self) -> u16 {
        let mut first = [0];
        self.pci.config_read(0x34, &mut first);
        u16::from(first[0]) + 2
    }
}

#[test]
fn features_are_refused_and_frozen() {
    let mut rig = rig();
    rig.put(0x14, 1, ACKNOWLEDGE.into());
    rig.put(0x14, 1, (ACKNOWLEDGE | DRIVER).into());
    rig.put(0x14, 1, ALL.into());
    assert_eq!(rig.status(), ACKNOWLEDGE | DRIVER, "a legacy driver is refused");
    rig.put(0x08, 4, 1);
    rig.put(0x0c, 4, 1 | 1 << 20);
    rig.put(0x14, 1, ALL.into());
    assert_eq!(rig.status(), ACKNOWLEDGE | DRIVER, "so is one that wants what was not offered");
    rig.put(0x0c, 4, 1);
    rig.put(0x14, 1, ALL.into());
    assert_eq!(rig.status(), ALL);
    rig.put(0x0c, 4, 0);
    assert_eq!(rig.get(0x0c, 4), 1);
    rig.put(0x14, 1, 1);
    assert_eq!(rig.status(), ALL, "bits cannot be cleared");
}

#[test]
fn queues_cannot_be_changed_at_the_wrong_time() {
    let mut rig = rig();
    rig.put(0x18, 2, 8);
    assert_eq!(rig.get(0x18, 2), 64);
    rig.run();
    rig.put(0x16, 2, 0);
    rig.put(0x20, 8, 0xdead_0000);
    assert_eq!(rig.get(0x20, 8), 0x1000);
    rig.put(0x16, 2, 7);
    rig.put(0x18, 2, 8);
    assert_eq!(rig.get(0x18, 2), 0);
}

#[test]
fn queues_outside_of_memory_make_the_device_ask_for_a_reset() {
    for (size, descriptors, available, used) in [
        (16, 1 << 40, 0x2000, 0x3000),
        (16, 0x1000, u64::MAX - 1, 0x3000),
        (16, 0x1000, 0x2000, crate::test_utils::MEMORY_SIZE - 4),
        (16, 0x1001, 0x2000, 0x3000),
        (16, 0x1000, 0, 0x3000),
        (15, 0x1000, 0x2000, 0x3000),
        (0, 0x1000, 0x2000, 0x3000),
        (32768, 0x1000, 0x2000, 0x3000),
    ] {
        let mut rig = rig();
        rig.negotiate();
        rig.put(0x18, 2, size);
        rig.put(0x20, 8, descriptors);
        rig.put(0x28, 8, available);
        rig.put(0x30, 8, used);
        rig.put(0x1c, 2, 1);
        rig.put(0x14, 1, (ALL | DRIVER_OK).into());
        assert_eq!(rig.status(), ALL | DRIVER_OK | NEEDS_RESET);
        assert!(rig.seen.lock().unwrap().activation.is_none());
        assert!(rig.kicks.0.lock().unwrap().is_empty());
        rig.put(0x14, 1, 0);
        rig.run();
        assert_eq!(rig.status(), ALL | DRIVER_OK);
    }
}

#[test]
fn configuration_is_reached_at_any_width_and_through_the_window() {
    let mut rig = rig();
    rig.put(DEVICE, 4, 0x0403_0201);
    assert_eq!(rig.get(DEVICE, 4), 0, "there is no driver yet");
    rig.negotiate();
    rig.put(DEVICE + 1, 4, 0x0403_0201);
    assert_eq!(rig.get(DEVICE, 8), 0x04_0302_0100);
    assert_eq!(rig.get(DEVICE + 2, 2), 0x0302);
    assert_eq!(rig.get(DEVICE + 6, 8), 0);
    // The window: BAR 0, the common structure's number of queues.
    let window = rig.pci.window_register;
    rig.pci.config_write(window + 8, &0x12u32.to_le_bytes());
    rig.pci.config_write(window + 12, &2u32.to_le_bytes());
    let mut data = [0; 2];
    rig.pci.config_read(window + 16, &mut data);
    assert_eq!(data, [2, 0]);
    rig.pci.config_write(window + 8, &0x16u32.to_le_bytes());
    rig.pci.config_write(window + 16, &[1, 0]);
    assert_eq!(rig.get(0x16, 2), 1);
}

/// One access of a guest.
#[derive(Debug, Clone)]
enum Access {
    Bar(u64, Vec<u8>),
    BarRead(u64, usize),
    Config(u16, Vec<u8>),
    ConfigRead(u16, usize),
    Memory(u64, Vec<u8>),
    /// A whole bring-up, so that what follows meets a running device.
    Run,
}

fn access() -> impl Strategy<Value = Access> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..9);
    // Small values of the registers are where things happen.
    let offset = prop_oneof![0u64..0x40, 0u64..0x8000, 0x2ff8u64..0x3010, 0x3ff0u64..0x4040];
    prop_oneof![
        4 => (offset.clone(), bytes()).prop_map(|(offset, data)| Access::Bar(offset, data)),
        2 => (0u64..0x38, any::<u8>()).prop_map(|(offset, value)| Access::Bar(offset, vec![value])),
        1 => (offset, 0usize..9).prop_map(|(offset, width)| Access::BarRead(offset, width)),
        1 => (0u16..0x110, bytes()).prop_map(|(register, data)| Access::Config(register, data)),
        1 => (0u16..4096, 0usize..9).prop_map(|(register, width)| Access::ConfigRead(register, width)),
        3 => (0x1000u64..0x4000, bytes()).prop_map(|(at, data)| Access::Memory(at, data)),
        1 => Just(Access::Run),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the guest writes, and wherever: no panic, no hang, and a reset brings the device back.
    #[test]
    fn arbitrary_accesses_are_survived(accesses in prop::collection::vec(access(), 1..60)) {
        let memory = memory();
        let device = Box::new(Rng::new(&confined()).unwrap());
        let (msix, _log) = FakeMsix::new(VirtioPci::vectors(&*device));
        let mut root = PciRoot::new();
        let pci = VirtioPci::new("t", device, memory.clone(), msix, Box::new(FakeKicks::default())).unwrap();
        let slot = root.add(Box::new(pci)).unwrap();
        let base = 0x10_0000_0000;
        root.set_bar_address(slot, 0, base);
        for access in accesses {
            match access {
                Access::Bar(offset, data) => _ = root.mmio_write(base + offset, &data),
                Access::BarRead(offset, width) => _ = root.mmio_read(base + offset, &mut vec![0; width]),
                Access::Config(register, data) => root.ecam_write(1 << 15 | u64::from(register), &data),
                Access::ConfigRead(register, width) => {
                    root.ecam_read(1 << 15 | u64::from(register), &mut vec![0; width]);
                }
                Access::Memory(at, data) => memory.write_slice(&data, GuestAddress(at)).unwrap(),
                Access::Run => bring_up(&mut root, base),
            }
        }
        // Undo what the guest did to the BAR, and reset.
        root.ecam_write(1 << 15 | 0x10, &u64::to_le_bytes(base));
        root.ecam_write(1 << 15 | 0x04, &[6, 0]);
        root.mmio_write(base + 0x14, &[0]);
        memory.write_slice(&[0; 0x8000], GuestAddress(0x1000)).unwrap();
        bring_up(&mut root, base);
        let mut status = [0];
        root.mmio_read(base + 0x14, &mut status);
        prop_assert_eq!(status[0], ALL | DRIVER_OK);
    }
}

fn bring_up(root: &mut PciRoot, base: u64) {
    let mut put = |offset: u64, data: &[u8]| _ = root.mmio_write(base + offset, data);
    put(0x14, &[0]);
    put(0x14, &[ACKNOWLEDGE | DRIVER]);
    put(0x08, &1u32.to_le_bytes());
    put(0x0c, &1u32.to_le_bytes());
    put(0x14, &[ALL]);
    put(0x16, &[0, 0]);
    put(0x18, &[16, 0]);
    put(0x20, &0x1000u64.to_le_bytes());
    put(0x28, &0x2000u64.to_le_bytes());
    put(0x30, &0x3000u64.to_le_bytes());
    put(0x1c, &[1, 0]);
    put(0x14, &[ALL | DRIVER_OK]);
    put(NOTIFY, &[0, 0]);
}

#[test]
fn a_real_device_works_through_the_registers() {
    let memory = memory();
    let device = Box::new(Rng::new(&confined()).unwrap());
    let (msix, _log) = FakeMsix::new(2);
    let irq = msix.irqfd(1).try_clone().unwrap();
    let mut pci = VirtioPci::new("t", device, memory.clone(), msix, Box::new(FakeKicks::default())).unwrap();
    pci.set_bar_address(0, 0x10_0000_0000);
    let mut driver = DriverQueue::new(&memory, 0, 64);
    let mut put = |offset: u64, data: &[u8]| pci.bar_write(0, offset, data);
    put(0x14, &[ACKNOWLEDGE]);
    put(0x14, &[ACKNOWLEDGE | DRIVER]);
    put(0x08, &1u32.to_le_bytes());
    put(0x0c, &1u32.to_le_bytes());
    put(0x08, &0u32.to_le_bytes());
    put(0x0c, &(1u32 << 28 | 1 << 29).to_le_bytes());
    put(0x14, &[ALL]);
    put(0x16, &[0, 0]);
    put(0x1a, &[1, 0]);
    for (offset, address) in [(0x20, driver.descriptors()), (0x28, driver.available_ring()), (0x30, driver.used_ring())]
    {
        put(offset, &(address as u32).to_le_bytes());
        put(offset + 4, &((address >> 32) as u32).to_le_bytes());
    }
    put(0x1c, &[1, 0]);
    put(0x14, &[ALL | DRIVER_OK]);
    let mut first = [0];
    pci.config_read(0x34, &mut first);
    pci.config_write(u16::from(first[0]) + 2, &[0, 0x80]);
    for round in 0..3 {
        let head = driver.add(&[(DATA, 32, true)]);
        pci.bar_write(0, NOTIFY, &[0, 0]);
        assert!(wait_for(&irq, Duration::from_secs(10)), "no interrupt in round {round}");
        assert_eq!(driver.used(), Some((head, 32)));
    }
}
