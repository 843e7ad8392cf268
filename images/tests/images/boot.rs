//! Boot files out of disks, and disks out of images.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kit::{self, HELPER, Place, outcome, tool};

/// A bzImage whose payload is a small zstd-compressed "ELF".
fn bzimage(release: &str) -> Vec<u8> {
    let elf = [b"\x7fELF".as_slice(), &[7; 100_000]].concat();
    let mut payload = zstd::encode_all(elf.as_slice(), 1).expect("zstd");
    payload.extend((elf.len() as u32).to_le_bytes());
    let mut image = vec![0; 5 * 512];
    image[0x1f1] = 4;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    image[0x300..0x300 + release.len()].copy_from_slice(release.as_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend(payload);
    image
}

fn system(root: &Path) {
    let modules = root.join("lib/modules/6.1-test/kernel");
    fs::create_dir_all(&modules).expect("mkdir");
    fs::create_dir_all(root.join("boot")).expect("mkdir");
    fs::create_dir_all(root.join("etc")).expect("mkdir");
    fs::write(root.join("boot/vmlinuz-6.1-test"), bzimage("6.1-test")).expect("write");
    fs::write(root.join("boot/initrd.img-6.1-test"), "initrd").expect("write");
    std::os::unix::fs::symlink("boot/vmlinuz-6.1-test", root.join("vmlinuz")).expect("link");
    std::os::unix::fs::symlink("boot/initrd.img-6.1-test", root.join("initrd.img")).expect("link");
    let dep = "kernel/vmw_vsock_virtio_transport.ko: kernel/vsock.ko\nkernel/vsock.ko:\n";
    fs::write(root.join("lib/modules/6.1-test/modules.dep"), dep).expect("write");
    for name in ["vsock.ko", "vmw_vsock_virtio_transport.ko"] {
        fs::write(modules.join(name), [b"\x7fELF".as_slice(), name.as_bytes()].concat()).expect("write");
    }
}

fn ext4(place: &Place, root: &Path) -> PathBuf {
    let disk = place.path().join("disk.img");
    File::create(&disk).expect("create").set_len(32 << 20).expect("size");
    let args: Vec<&OsStr> = ["-q", "-F", "-t", "ext4", "-d"].iter().map(OsStr::new).collect();
    tool("mke2fs", &[&args[..], &[root.as_os_str(), disk.as_os_str()]].concat());
    disk
}

fn boot(place: &Place, disk: &Path) -> Result<serde_json::Value, berth_images::wire::Failure> {
    let cache = place.path().join("cache");
    fs::create_dir_all(&cache).expect("mkdir");
    let mut command = Command::new(HELPER);
    command.arg("boot").arg("--cache").arg(&cache).stdin(File::open(disk).expect("disk"));
    let output = command.stdout(Stdio::piped()).output().expect("helper");
    let result = outcome(&output);
    let leftovers = fs::read_dir(&cache).expect("cache").flatten();
    assert_eq!(leftovers.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).count(), 0);
    result
}

#[test]
fn a_whole_disk_boots() {
    let place = Place::new();
    let root = place.path().join("root");
    system(&root);
    let disk = ext4(&place, &root);
    let found = boot(&place, &disk).expect("boot");
    assert_eq!(found["release"], "6.1-test");
    assert_eq!(found["root"], "root=/dev/vda");
    assert_eq!(found["modules"], serde_json::json!(["vsock.ko", "vmw_vsock_virtio_transport.ko"]));
    let cached = place.path().join("cache").join(found["key"].as_str().expect("key"));
    assert!(fs::read(cached.join("kernel")).expect("kernel").starts_with(b"\x7fELF"));
    assert_eq!(fs::read(cached.join("initrd")).expect("initrd"), b"initrd");
    assert_eq!(boot(&place, &disk).expect("again"), found);
}

#[test]
fn another_kernel_means_another_key() {
    let place = Place::new();
    let root = place.path().join("root");
    system(&root);
    let before = boot(&place, &ext4(&place, &root)).expect("boot");
    fs::write(root.join("boot/initrd.img-6.1-test"), "newer").expect("write");
    let after = boot(&place, &ext4(&place, &root)).expect("boot");
    assert_ne!(before["key"], after["key"]);
}

#[test]
fn a_partition_boots_with_what_grub_says() {
    let place = Place::new();
    let root = place.path().join("root");
    system(&root);
    fs::create_dir_all(root.join("boot/grub")).expect("mkdir");
    let config =
        "menuentry 'x' {\n linux /boot/vmlinuz-6.1-test ro quiet console=ttyS1\n initrd /boot/initrd.img-6.1-test\n}\n";
    fs::write(root.join("boot/grub/grub.cfg"), config).expect("write");
    let partition = ext4(&place, &root);
    let disk = place.path().join("gpt.img");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&disk).expect("create");
    file.set_len(48 << 20).expect("size");
    let mut table =
        gpt::GptConfig::new().writable(true).create_from_device(file.try_clone().expect("clone"), None).expect("gpt");
    table.add_partition("root", 32 << 20, gpt::partition_types::LINUX_FS, 0, None).expect("partition");
    let (start, guid) =
        table.partitions().values().map(|p| (p.first_lba * 512, p.part_guid)).next().expect("partition");
    table.write().expect("write");
    let mut content = Vec::new();
    File::open(partition).expect("open").read_to_end(&mut content).expect("read");
    file.write_all_at(&content, start).expect("write");
    let found = boot(&place, &disk).expect("boot");
    assert_eq!(found["root"], format!("root=PARTUUID={guid}"));
    assert_eq!(found["args"], serde_json::json!(["ro", "quiet"]));
}

#[test]
fn disks_without_a_kernel_are_told_so() {
    let place = Place::new();
    let root = place.path().join("root");
    fs::create_dir_all(root.join("etc")).expect("mkdir");
    std::os::unix::fs::symlink("vmlinuz", root.join("vmlinuz")).expect("link");
    let failure = boot(&place, &ext4(&place, &root)).expect_err("no kernel");
    assert!(failure.message.contains("no kernel found"), "{failure:?}");
    let empty = kit::save(place.path(), "empty", &[0; 1 << 20]);
    assert!(boot(&place, &empty).expect_err("empty").message.contains("neither an ext4"));
    let tiny = kit::save(place.path(), "tiny", b"");
    assert!(boot(&place, &tiny).is_err());
}

#[test]
fn damaged_disks_do_no_harm() {
    let place = Place::new();
    let root = place.path().join("root");
    system(&root);
    let disk = ext4(&place, &root);
    let bytes = fs::read(&disk).expect("read");
    for seed in 1..6usize {
        let mut bytes = bytes.clone();
        for at in (1024..bytes.len().min(4 << 20)).step_by(997 * seed) {
            bytes[at] ^= 0xa5;
        }
        let damaged = kit::save(place.path(), "damaged", &bytes);
        // Either outcome is fine, as long as there is one.
        let _ = boot(&place, &damaged);
    }
}
