//! Partition tables: GPT, and the older one of the master boot record.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Most partitions that are looked at.
const PARTITIONS_MAX: usize = 32;
const SECTOR: u64 = 512;
/// Type of an extended partition, and of the record that protects a GPT.
const NOT_DATA: &[u8] = &[0x00, 0x05, 0x0f, 0x85, 0xee];

/// A partition of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
    /// What a kernel calls `PARTUUID`.
    pub uuid: String,
}

/// The used partitions of `disk`, which is `length` bytes long; `None` if it has no table.
pub fn partitions(disk: &File, length: u64) -> Option<Vec<Partition>> {
    let mut found = gpt(disk).or_else(|| master_boot_record(disk))?;
    found.retain(|partition| partition.start < length && partition.length > 0);
    for partition in &mut found {
        partition.length = partition.length.min(length - partition.start);
    }
    found.truncate(PARTITIONS_MAX);
    Some(found)
}

fn gpt(disk: &File) -> Option<Vec<Partition>> {
    let reader = disk.try_clone().ok()?;
    let table = gpt::GptConfig::new().writable(false).open_from_device(reader).ok()?;
    let used = table.partitions().iter().filter(|(_, partition)| partition.is_used());
    let convert = |(number, partition): (&u32, &gpt::partition::Partition)| {
        let sectors = partition.last_lba.checked_sub(partition.first_lba)?.checked_add(1)?;
        Some(Partition {
            number: *number,
            start: partition.first_lba.checked_mul(SECTOR)?,
            length: sectors.checked_mul(SECTOR)?,
            uuid: partition.part_guid.to_string(),
        })
    };
    Some(used.filter_map(convert).collect())
}

/// The four primary partitions; logical ones are not looked at, for no cloud image has any.
fn master_boot_record(disk: &File) -> Option<Vec<Partition>> {
    let mut sector = [0; SECTOR as usize];
    disk.read_exact_at(&mut sector, 0).ok()?;
    // A file system that begins with boot code has the signature too, but no valid entries.
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    let number = |at: usize| u32::from_le_bytes([sector[at], sector[at + 1], sector[at + 2], sector[at + 3]]);
    let signature = number(440);
    let entries = (0..4u32).map(|index| (index + 1, 446 + 16 * index as usize));
    let valid = entries.clone().all(|(_, at)| matches!(sector[at], 0 | 0x80));
    let found: Vec<_> = entries
        .filter(|(_, at)| !NOT_DATA.contains(&sector[at + 4]))
        .map(|(index, at)| Partition {
            number: index,
            start: u64::from(number(at + 8)) * SECTOR,
            length: u64::from(number(at + 12)) * SECTOR,
            uuid: format!("{signature:08x}-{index:02x}"),
        })
        .filter(|partition| partition.start > 0)
        .collect();
    (valid && !found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk(sector: &[u8]) -> File {
        let file = tempfile::tempfile().expect("file");
        file.write_all_at(sector, 0).expect("write");
        file.set_len(64 << 20).expect("size");
        file
    }

    #[test]
    fn an_old_table_is_read() {
        let mut sector = [0; 512];
        sector[440..444].copy_from_slice(&0x1234_abcdu32.to_le_bytes());
        sector[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0]);
        sector[462..478].copy_from_slice(&[0, 0, 0, 0, 0x05, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0]);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        let expected = Partition { number: 1, start: 2048 * 512, length: 65536 * 512, uuid: "1234abcd-01".to_owned() };
        assert_eq!(partitions(&disk(&sector), 64 << 20), Some(vec![expected]));
        assert_eq!(partitions(&disk(&[0; 512]), 64 << 20), None);
    }

    proptest! {
        #[test]
        fn any_sector_is_survived(bytes in proptest::collection::vec(any::<u8>(), 446..512), length in 0u64..1 << 40) {
            let mut sector = [0; 512];
            sector[..bytes.len()].copy_from_slice(&bytes);
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
            for partition in partitions(&disk(&sector), length).unwrap_or_default() {
                prop_assert!(partition.start.checked_add(partition.length).is_some_and(|end| end <= length));
            }
        }
    }
}
