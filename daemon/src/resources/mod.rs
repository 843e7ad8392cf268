//! Resources of the host, as the kernel tells of them below `/sys` and `/proc`. Everything here blocks.

mod cpu;
mod devices;
mod disks;
mod network;
mod system;

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use berth_api::resources::Resources;

/// Bytes that are read of a file; attributes are much shorter.
const MAX_TEXT: u64 = 64 * 1024;

/// Reads all of them; what cannot be read is left out.
pub fn read() -> Resources {
    read_from(Path::new("/sys"), Path::new("/proc"))
}

fn read_from(sys: &Path, proc: &Path) -> Resources {
    Resources {
        cpu: cpu::cpu(sys, proc),
        memory: cpu::memory(proc),
        network: network::cards(sys),
        storage: disks::disks(sys),
        usb: devices::usb(sys),
        pci: devices::pci(sys),
        system: system::system(sys, proc),
        ..Resources::default()
    }
}

/// A file, such as an attribute of a device, without the line end; empty if there is none.
fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is cut off somewhere, and so worth nothing.
    match File::open(path).and_then(|file| file.take(MAX_TEXT).read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(_) => String::new(),
    }
}

/// A number of an attribute.
fn number(path: &Path) -> Option<u64> {
    text(path).parse().ok()
}

/// Four hexadecimal digits of an attribute such as `0x8086`.
fn id(path: &Path) -> String {
    text(path).trim_start_matches("0x").to_owned()
}

/// Name of what a link points to; empty if there is none.
fn target(path: &Path) -> String {
    let target = fs::read_link(path).ok();
    target.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())).unwrap_or_default()
}

/// NUMA node of a device; a device without one counts for the first.
fn numa_node(device: &Path) -> u64 {
    number(&device.join("numa_node")).unwrap_or(0)
}

/// Names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::{fixture::tree, *};

    #[test]
    fn the_host_has_a_processor_and_memory() {
        let resources = read();
        let threads = resources.cpu.sockets.iter().flat_map(|s| &s.cores).map(|c| c.threads.len()).sum::<usize>();
        assert!(resources.cpu.total >= 1 && threads as u64 >= resources.cpu.total);
        assert!(resources.memory.total > resources.memory.used);
    }

    #[test]
    fn a_host_that_tells_nothing() {
        let empty = tree(&[]);
        let resources = read_from(empty.path(), &empty.path().join("missing"));
        assert_eq!((resources.cpu.total, resources.memory.total, resources.storage.total), (0, 0, 0));
        assert_eq!((resources.pci.total, resources.usb.total, resources.network.total), (0, 0, 0));
    }

    #[test]
    fn whatever_stands_in_attributes_is_taken() {
        let long = "9".repeat(100_000);
        let root = tree(&[
            ("sys/class/net/eth0/device", "->../../../devices/card"),
            ("sys/devices/card/vendor", &long),
            ("sys/devices/card/subsystem", "->subsystem"),
            ("sys/class/net/eth0/speed", "fast"),
            ("sys/class/net/eth1/device", "->device"),
            ("sys/class/block/sda/device/subsystem", "->.."),
            ("sys/class/block/sda/size", &u64::MAX.to_string()),
            ("sys/class/block/sdb", "no directory"),
            ("sys/bus/pci/devices/x/vendor/file", "a directory where a file should be"),
            ("sys/bus/usb/devices/1-1/speed", "-inf"),
            ("sys/devices/system/cpu/cpu99999999999/online", "1"),
            ("sys/devices/system/cpu/cpu1/topology/core_id", "-1"),
            ("proc/meminfo", "MemTotal\nMemTotal: x kB\n:::"),
        ]);
        fs::write(root.path().join("sys/class/net/eth0/address"), b"\xff\xfe").unwrap();
        let resources = read_from(&root.path().join("sys"), &root.path().join("proc"));
        assert_eq!((resources.cpu.total, resources.network.total, resources.storage.total), (1, 1, 1));
        assert_eq!(resources.storage.disks[0].size, u64::MAX);
        serde_json::to_string(&resources).unwrap();
    }
}

#[cfg(test)]
mod fixture {
    use std::{fs, os::unix::fs::symlink, path::Path};

    /// A tree of attributes; a value that begins with `->` makes a link.
    pub fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, value) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match value.strip_prefix("->") {
                Some(target) => symlink(Path::new(target), path).unwrap(),
                None => fs::write(path, format!("{value}\n")).unwrap(),
            }
        }
        root
    }
}
