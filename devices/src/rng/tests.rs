use proptest::prelude::*;

use super::Rng;
use crate::test_utils::hostile::{rings, torment};
use crate::test_utils::{DATA, Driver, confined, malformed_chains};
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
