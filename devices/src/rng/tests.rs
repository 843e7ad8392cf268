use proptest::prelude::*;

use super::Rng;
use crate::test_utils::hostile::{rings, torment};
use crate::test_utils::{DATA, Driver, Function, confined, malformed_chains};
use crate::virtio::VirtioDevice;

fn start() -> (Rng, Driver) {
    let mut rng = Rng::new(&confined()).unwrap();
    let (driver, activation) = Driver::new(&[64], 0, true);
    rng.activate(activation).unwrap();
    (rng, driver)
}

#[test]
fn buffers_are_filled_up_to_the_cap() {
    let (_rng, mut driver) = start();
    assert_eq!(driver.request(0, &[(DATA, 16, true), (DATA + 100, 48, true)]), 64);
    assert_ne!(driver.read(DATA, 16), [0; 16]);
    assert_ne!(driver.read(DATA + 100, 48), [0; 48]);
    assert_eq!(driver.request(0, &[(DATA, 1 << 20, true)]), 64 << 10);
    assert_eq!(driver.request(0, &[(DATA, 16, false)]), 0);
}

#[test]
fn malformed_chains_break_the_device_until_its_reset() {
    for (name, make) in malformed_chains() {
        let (mut rng, mut driver) = start();
        make(&mut driver.queues[0]);
        driver.queues[0].kick();
        driver.wait_broken();
        rng.reset();
        let (mut driver, activation) = Driver::new(&[64], 0, false);
        rng.activate(activation).unwrap();
        assert_eq!(driver.request(0, &[(DATA, 8, true)]), 8, "after {name}");
    }
}

#[test]
fn nothing_is_written_after_a_reset() {
    let (mut rng, mut driver) = start();
    rng.reset();
    driver.queues[0].add(&[(DATA, 16, true)]);
    driver.queues[0].kick();
    rng.reset();
    assert_eq!(driver.queues[0].used(), None);
    assert_eq!(driver.read(DATA, 16), [0; 16]);
}

#[test]
fn a_restored_device_goes_on_where_the_saved_one_stood() {
    let device = || Box::new(Rng::new(&confined()).unwrap());
    let mut function = Function::start(device(), 0);
    for _ in 0..100 {
        assert_eq!(function.request(0, &[(DATA, 8, true)]), 8);
    }
    // Made available while the device is held, and its notification lost.
    function.save();
    let head = function.queues[0].add(&[(DATA, 16, true)]);
    let mut function = function.move_to(device());
    assert_eq!(function.wait_used(0), (head, 16));
    assert_eq!(function.request(0, &[(DATA, 32, true)]), 32);
    assert!(!function.broken());
}

#[test]
fn a_held_device_goes_on_after_a_save_that_came_to_nothing() {
    let mut function = Function::start(Box::new(Rng::new(&confined()).unwrap()), 0);
    function.save();
    let head = function.queues[0].add(&[(DATA, 16, true)]);
    function.kick(0);
    function.save();
    assert_eq!(function.queues[0].used(), None, "a held device does nothing");
    crate::pci::PciDevice::resume(&mut function.pci);
    assert_eq!(function.wait_used(0), (head, 16));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_rings_are_survived(rings in rings(1)) {
        let mut rng = Rng::new(&confined()).unwrap();
        torment(&mut rng, 0, &rings);
        let (mut driver, activation) = Driver::new(&[64], 0, true);
        rng.activate(activation).unwrap();
        prop_assert_eq!(driver.request(0, &[(DATA, 8, true)]), 8);
    }
}
