use proptest::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lamp {
    bright: u8,
}

impl Saved for Lamp {
    const KIND: &'static str = "lamp";
    const VERSION: u32 = 3;
    fn upgrade(version: u32, mut payload: Value) -> Option<Value> {
        // Version 2 called it otherwise; version 1 was something else.
        if version != 2 {
            return None;
        }
        let bright = payload.as_object_mut()?.remove("light")?;
        Some(serde_json::json!({ "bright": bright }))
    }
}

fn sections() -> Sections {
    let mut sections = Sections::new();
    sections.add("a", &Lamp { bright: 1 }).unwrap();
    sections.add("b", &Lamp { bright: 2 }).unwrap();
    sections
}

fn bytes(sections: &Sections) -> Vec<u8> {
    let mut bytes = Vec::new();
    sections.write(&mut bytes).unwrap();
    bytes
}

/// `sections()` with one section of another version and payload.
fn of_version(version: u32, payload: &str) -> Sections {
    let mut sections = sections();
    (sections.0[0].version, sections.0[0].payload) = (version, payload.into());
    Sections::read(&bytes(&sections)[..]).unwrap()
}

#[test]
fn what_was_written_is_read() {
    let mut read = Sections::read(&bytes(&sections())[..]).unwrap();
    assert_eq!(read, sections());
    assert_eq!(read.take::<Lamp>("b").unwrap(), Lamp { bright: 2 });
    assert!(matches!(read.take::<Lamp>("b"), Err(StateError::Missing { .. })));
    assert!(matches!(read.clone().finish(), Err(StateError::Superfluous { .. })));
    assert_eq!(read.take::<Lamp>("a").unwrap(), Lamp { bright: 1 });
    read.finish().unwrap();
}

#[test]
fn an_older_version_is_upgraded_or_refused_and_a_newer_one_refused() {
    assert_eq!(of_version(2, r#"{"light":9}"#).take::<Lamp>("a").unwrap(), Lamp { bright: 9 });
    for (version, payload) in [(1, r#"{"light":9}"#), (4, r#"{"bright":9}"#), (2, r#"{"bright":9}"#)] {
        let error = of_version(version, payload).take::<Lamp>("a").unwrap_err();
        assert!(matches!(error, StateError::Version { .. }), "{error}");
    }
    for payload in [r#"{"bright":9,"colour":1}"#, r#"{"bright":256}"#, "{", ""] {
        let error = of_version(3, payload).take::<Lamp>("a").unwrap_err();
        assert!(matches!(error, StateError::Payload { .. }), "{error}");
    }
}

#[test]
fn foreign_files_and_formats_are_told_by_name() {
    for foreign in [&b""[..], b"BERTH", b"QEVM0000", &[0; 4096]] {
        assert!(matches!(Sections::read(foreign), Err(StateError::Foreign)));
    }
    let mut newer = bytes(&sections());
    newer[8] = 2;
    assert!(matches!(Sections::read(&newer[..]), Err(StateError::Format(2))));
}

proptest! {
    #[test]
    fn a_truncated_or_changed_state_is_refused(cut in 0usize..1000, at in 0usize..1000, bit in 0u8..8) {
        let whole = bytes(&sections());
        prop_assert!(Sections::read(&whole[..cut % whole.len()]).is_err());
        let mut changed = whole.clone();
        changed[at % whole.len()] ^= 1 << bit;
        prop_assert!(Sections::read(&changed[..]).is_err());
    }

    #[test]
    fn arbitrary_bytes_with_a_right_checksum_are_survived(
        body in prop::collection::vec(any::<u8>(), 0..300),
        changes in prop::collection::vec((0usize..1000, any::<u8>()), 0..4),
    ) {
        let mut forged = [&b"BERTHVMS\x01\0\0\0"[..], &body].concat();
        forged.extend_from_slice(&Sha256::digest(&forged));
        let _ = Sections::read(&forged[..]);
        let mut altered = bytes(&sections());
        altered.truncate(altered.len() - 32);
        for (at, byte) in changes {
            let at = at % altered.len();
            altered[at] = byte;
        }
        altered.extend_from_slice(&Sha256::digest(&altered));
        if let Ok(mut read) = Sections::read(&altered[..]) {
            let _ = (read.take::<Lamp>("a"), read.take::<Lamp>("b"));
        }
    }
}
