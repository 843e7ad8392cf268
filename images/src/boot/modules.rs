//! The kernel modules a guest's agent needs before the root file system is there, and what these depend on.

use std::collections::BTreeMap;

/// The modules wanted: a vsock transport by virtio.
const WANTED: &[&str] = &["vmw_vsock_virtio_transport"];
/// Most modules in the result.
const RESULT_MAX: usize = 32;

/// `kernel/net/a-b.ko.xz` → `a_b`.
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Paths (relative to the modules' directory) in the order they must be loaded, from the text of `modules.dep`.
pub fn load_order(modules_dep: &str) -> Vec<String> {
    let mut files: BTreeMap<String, (&str, Vec<&str>)> = BTreeMap::new();
    for line in modules_dep.lines() {
        if let Some((path, needs)) = line.split_once(':') {
            files.insert(name_of(path.trim()), (path.trim(), needs.split_whitespace().collect()));
        }
    }
    let mut order: Vec<String> = Vec::new();
    for wanted in WANTED {
        let Some((path, needs)) = files.get(*wanted) else { continue };
        // modules.dep lists all dependencies, the one to be loaded first at the end.
        for path in needs.iter().rev().chain([path]) {
            if !order.iter().any(|there| there == path) && order.len() < RESULT_MAX {
                order.push((*path).to_owned());
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEP: &str = "kernel/net/vmw_vsock/vsock.ko.xz:\n\
        kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko.xz: kernel/net/vmw_vsock/vmw_vsock_virtio_transport_common.ko.xz \
        kernel/drivers/virtio/virtio_ring.ko.xz kernel/drivers/virtio/virtio.ko.xz kernel/net/vmw_vsock/vsock.ko.xz\n";

    #[test]
    fn dependencies_come_first() {
        let names: Vec<String> = load_order(DEP).iter().map(|path| name_of(path)).collect();
        let wanted =
            ["vsock", "virtio", "virtio_ring", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"];
        assert_eq!(names, wanted);
    }

    #[test]
    fn built_in_means_nothing_to_load() {
        assert!(load_order("kernel/fs/ext4.ko: kernel/lib/crc16.ko\n").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "([a-z_/.:-]{0,20}[ \n]?){0,30}") {
            prop_assert!(load_order(&text).len() <= RESULT_MAX);
        }
    }
}
