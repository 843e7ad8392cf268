//! Arbitrary rings.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::{DATA, Driver, HIGH, MEMORY_SIZE};
use crate::virtio::VirtioDevice;

/// A descriptor of a hostile driver.
#[derive(Debug, Clone)]
struct Descriptor {
    index: u16,
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// Everything a hostile driver writes to guest memory.
#[derive(Debug, Clone)]
pub struct Rings {
    descriptors: Vec<(usize, Descriptor)>,
    heads: Vec<(usize, u16)>,
    /// Index of each available ring, if it is not what was published.
    available: Option<u16>,
    data: Vec<(u64, u64)>,
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    // Most addresses and lengths are plausible, so that the device gets somewhere.
    let address = prop_oneof![
        6 => DATA..DATA + 0x4000,
        1 => 0u64..0x1_0000,
        1 => MEMORY_SIZE - 64..MEMORY_SIZE + 64,
        1 => HIGH..HIGH + 0x1000,
        1 => any::<u64>(),
    ];
    let len = prop_oneof![4 => 0u32..64, 4 => 0u32..5000, 1 => any::<u32>()];
    (0u16..16, address, len, 0u16..8, 0u16..18).prop_map(|(index, address, len, flags, next)| Descriptor {
        index,
        address,
        len,
        flags,
        next,
    })
}

/// Rings for a device with `queues` queues.
pub fn rings(queues: usize) -> impl Strategy<Value = Rings> {
    (
        prop::collection::vec((0..queues, descriptor()), 1..40),
        prop::collection::vec((0..queues, 0u16..18), 1..20),
        prop_oneof![8 => Just(None), 1 => any::<u16>().prop_map(Some)],
        prop::collection::vec((DATA..DATA + 0x4000, prop_oneof![0u64..16, any::<u64>()]), 0..40),
    )
        .prop_map(|(descriptors, heads, available, data)| Rings { descriptors, heads, available, data })
}

/// Lets `device` meet `rings`, and resets it. Returning at all is what is tested.
pub fn torment(device: &mut dyn VirtioDevice, features: u64, rings: &Rings) {
    let sizes = device.queue_sizes().to_vec();
    let (mut driver, activation) = Driver::new(&sizes, features, false);
    for (at, value) in &rings.data {
        driver.memory.write_obj(*value, GuestAddress(*at)).unwrap();
    }
    for (queue, Descriptor { index, address, len, flags, next }) in &rings.descriptors {
        driver.queues[*queue].descriptor(*index, *address, *len, *flags, *next);
    }
    device.activate(activation).unwrap();
    for (queue, head) in &rings.heads {
        driver.queues[*queue].publish(*head);
        driver.queues[*queue].kick();
    }
    if let Some(available) = rings.available {
        driver.queues.iter().for_each(|queue| queue.set_available(available));
    }
    driver.queues.iter().for_each(|queue| queue.kick());
    device.reset();
}
