//! Resources of the host, as the kernel tells of them below `/sys` and `/proc`. Everything here blocks.

mod cpu;
mod devices;
mod disks;
mod network;
mod system;

use std::{fs, path::Path};

use berth_api::resources::Resources;

/// Reads all of them; what cannot be read is left out.
pub fn read() -> Resources {
    let sys = Path::new("/sys");
    Resources {
        cpu: cpu::cpu(&sys.join("devices/system/cpu")),
        memory: cpu::memory(),
        network: network::cards(sys),
        storage: disks::disks(sys),
        usb: devices::usb(sys),
        pci: devices::pci(sys),
        system: system::system(sys),
        ..Resources::default()
    }
}

/// An attribute of a device without the line end; empty if there is none.
fn text(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
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
