//! Saved states that no machine made.

use std::fs::File;

use proptest::prelude::*;
use serde_json::Value;

use crate::block::{Block, BlockConfig, BlockLimits};
use crate::pci::PciDevice;
use crate::saved::{Sections, StateError};
use crate::test_utils::{DATA, Function, confined};
use crate::virtio::VirtioDevice;

fn disk(file: &File) -> Box<dyn VirtioDevice> {
    let (name, serial) = ("t".into(), "1".into());
    let limits = BlockLimits::default();
    let config = BlockConfig { name, file: file.try_clone().unwrap(), readonly: false, serial, limits };
    Box::new(Block::new(config, &confined()).unwrap())
}

fn file() -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    file
}

/// A disk with one request served and one to be served, and its state.
fn saved(file: &File) -> (Function, Sections) {
    let mut function = Function::start(disk(file), 1 << 9);
    let chain = [(DATA, 16, false), (DATA + 0x1000, 512, true), (DATA + 0x100, 1, true)];
    function.request(0, &chain);
    let sections = function.save();
    function.queues[0].add(&chain);
    (function, sections)
}

fn refused(kind: &str, change: impl Fn(&mut Value)) -> StateError {
    let file = file();
    let (function, mut sections) = saved(&file);
    sections.forge(|found, mut payload| {
        if found == kind {
            change(&mut payload);
        }
        payload
    });
    function.restore(disk(&file), &sections).err().expect("the state was taken")
}

#[test]
fn impossible_states_are_refused() {
    let cases: [(&str, &str, Value); 8] = [
        ("virtio", "/device_type", 1.into()),
        ("virtio", "/features", u64::MAX.into()),
        ("virtio", "/positions", Value::Array(Vec::new())),
        ("virtio", "/queues", Value::Array(Vec::new())),
        ("virtio", "/queues/0/size", 512.into()),
        ("virtio", "/queues/0/used", u64::MAX.into()),
        ("virtio-pci", "/config/0", 0.into()),
        ("virtio-pci", "/vectors/1", 77.into()),
    ];
    for (kind, path, value) in cases {
        let error = refused(kind, |payload| *payload.pointer_mut(path).unwrap() = value.clone());
        assert!(matches!(error, StateError::Changed { .. } | StateError::Payload { .. }), "{path}: {error}");
    }
    let error = refused("virtio-pci", |payload| drop(payload.as_object_mut().unwrap().remove("isr")));
    assert!(error.to_string().contains("isr"), "{error}");
    let error = refused("virtio-pci", |payload| payload["msix"]["pending"] = serde_json::json!([9]));
    assert!(error.to_string().contains("vectors"), "{error}");
}

/// Replaces the number that is the `at`-th of the payload.
fn replace(payload: &mut Value, at: &mut usize, with: u64) {
    match payload {
        Value::Number(number) if *at == 0 => {
            *number = with.into();
            *at = usize::MAX;
        }
        Value::Number(_) => *at = at.saturating_sub(1),
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, at, with)),
        Value::Object(items) => items.values_mut().for_each(|item| replace(item, at, with)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the numbers say, the device is refused, or runs and can be reset.
    #[test]
    fn forged_numbers_are_survived(
        changes in prop::collection::vec((0usize..3, 0usize..60, prop_oneof![0u64..300, any::<u64>()]), 1..4),
    ) {
        let file = file();
        let (function, mut sections) = saved(&file);
        for (section, at, value) in changes {
            let mut index = 0;
            sections.forge(|_, mut payload| {
                if index == section {
                    replace(&mut payload, &mut at.clone(), value);
                }
                index += 1;
                payload
            });
        }
        if let Ok(mut function) = function.restore(disk(&file), &sections) {
            function.pci.resume();
            function.kick(0);
            function.save();
            function.pci.bar_write(0, 0x14, &[0]);
        }
    }
}
