//! Disks and their partitions.

use std::path::Path;

use berth_api::hardware::{ResourcesDisk, ResourcesPartition, ResourcesStorage};

use super::{names, numa_node, number, target, text};

/// Unit of sizes below `/sys/block`, whatever the device's own is.
const SECTOR: u64 = 512;

/// Disks that have a device behind them.
pub fn disks(sys: &Path) -> ResourcesStorage {
    let root = sys.join("class/block");
    let all = names(&root);
    let of_disk = |name: &String| {
        let path = root.join(name);
        let device = path.join("device");
        // Loops, RAM disks and the like have none, and a partition belongs to its disk.
        if !device.exists() || path.join("partition").exists() {
            return None;
        }
        let flag = |attribute: &str| number(&path.join(attribute)) == Some(1);
        let partitions = names(&path).into_iter().filter(|part| all.contains(part));
        let partitions: Vec<_> = partitions.filter_map(|part| partition(&path.join(&part), part)).collect();
        let rotational = flag("queue/rotational");
        Some(ResourcesDisk {
            id: name.clone(),
            device: text(&path.join("dev")),
            model: text(&device.join("model")),
            kind: target(&device.join("subsystem")),
            read_only: flag("ro"),
            size: size(&path),
            removable: flag("removable"),
            wwn: Some(text(&path.join("wwid")))
                .filter(|id| !id.is_empty())
                .unwrap_or_else(|| text(&device.join("wwid"))),
            numa_node: numa_node(&device),
            block_size: number(&path.join("queue/physical_block_size")).unwrap_or(SECTOR),
            serial: Some(text(&path.join("serial")))
                .filter(|s| !s.is_empty())
                .unwrap_or_else(|| text(&device.join("serial"))),
            rpm: u64::from(rotational),
            partitions,
        })
    };
    let disks: Vec<_> = all.iter().filter_map(of_disk).collect();
    let total = disks.iter().map(|disk| 1 + disk.partitions.len() as u64).sum();
    ResourcesStorage { disks, total }
}

fn size(path: &Path) -> u64 {
    number(&path.join("size")).unwrap_or(0).saturating_mul(SECTOR)
}

fn partition(path: &Path, id: String) -> Option<ResourcesPartition> {
    Some(ResourcesPartition {
        id,
        device: text(&path.join("dev")),
        read_only: number(&path.join("ro")) == Some(1),
        size: size(path),
        partition: number(&path.join("partition"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::fixture::tree;

    #[test]
    fn a_disk_with_a_partition() {
        let sys = tree(&[
            ("class/block/vda/dev", "254:0"),
            ("class/block/vda/size", "8"),
            ("class/block/vda/ro", "0"),
            ("class/block/vda/queue/rotational", "1"),
            ("class/block/vda/queue/physical_block_size", "4096"),
            ("class/block/vda/device/subsystem", "->../../../bus/virtio"),
            ("class/block/vda/vda1/partition", "1"),
            ("class/block/vda/vda1/size", "4"),
            ("class/block/vda1/partition", "1"),
            ("class/block/loop0/size", "8"),
        ]);
        let storage = disks(sys.path());
        let [disk] = &storage.disks[..] else { panic!("{storage:?}") };
        assert_eq!((&*disk.id, &*disk.kind, disk.size, disk.block_size, disk.rpm), ("vda", "virtio", 4096, 4096, 1));
        assert_eq!((disk.partitions[0].partition, disk.partitions[0].size, storage.total), (1, 2048, 2));
    }
}
