//! Boot files out of disks, and disks out of images.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kit::{self, HELPER, Place, outcome, tool};

/// A bzImage whose payload is a small zstd-compressed "ELF".
pub fn bzimage(release: &str) -> Vec<u8> {
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

pub fn system(root: &Path) {
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

pub fn ext4(place: &Place, root: &Path) -> PathBuf {
    let disk = place.path().join("disk.img");
    // Made anew: what was there may be of another size.
    File::create(&disk).expect("create").set_len(32 << 20).expect("size");
    let args: Vec<&OsStr> = ["-q", "-F", "-t", "ext4", "-d"].iter().map(OsStr::new).collect();
    tool("mke2fs", &[&args[..], &[root.as_os_str(), disk.as_os_str()]].concat());
    disk
}

/// What the helper finds of a kernel on the disk.
pub fn boot(place: &Place, disk: &Path) -> Result<serde_json::Value, berth_images::wire::Failure> {
    let found = look(place, disk)?;
    Ok(found.get("own").unwrap_or_else(|| panic!("it has a kernel of its own: {found}")).clone())
}

/// What the helper finds on the disk.
pub fn look(place: &Place, disk: &Path) -> Result<serde_json::Value, berth_images::wire::Failure> {
    Ok(report(place, disk, None)?["found"]["bootable"].take())
}

/// The helper's whole answer.
fn report(place: &Place, disk: &Path, known: Option<&str>) -> Result<serde_json::Value, berth_images::wire::Failure> {
    let cache = place.path().join("cache");
    fs::create_dir_all(&cache).expect("mkdir");
    let mut command = Command::new(HELPER);
    command.arg("boot").arg("--cache").arg(&cache).stdin(File::open(disk).expect("disk"));
    if let Some(known) = known {
        command.args(["--known", known]);
    }
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

/// Runs commands of debugfs on a file system, as a guest would change it.
fn change(disk: &Path, commands: &str) {
    let file = disk.with_extension("commands");
    fs::write(&file, commands).expect("write");
    tool("debugfs", &["-w".as_ref(), "-f".as_ref(), file.as_os_str(), disk.as_os_str()]);
}

#[test]
fn a_disk_is_read_again_when_what_it_boots_from_changed_and_only_then() {
    let place = Place::new();
    let root = place.path().join("root");
    system(&root);
    let disk = ext4(&place, &root);
    let first = report(&place, &disk, None).expect("boot");
    let stamp = first["found"]["stamp"].as_str().expect("stamp").to_owned();
    let known = |disk: &Path| report(&place, disk, Some(&stamp)).expect("boot");
    let same = serde_json::json!({ "known": { "stamp": stamp } });
    assert_eq!(known(&disk), same);
    // A guest that runs writes much; a disk that grows keeps its files.
    let other = kit::save(place.path(), "other", b"newer initrd");
    change(&disk, &format!("write {} etc/motd\nrm boot/gone\n", other.display()));
    File::options().write(true).open(&disk).expect("open").set_len(48 << 20).expect("size");
    tool("resize2fs", &["-f".as_ref(), disk.as_os_str()]);
    assert_eq!(known(&disk), same);
    // An upgrade puts a new file in the old one's place.
    change(&disk, &format!("rm boot/initrd.img-6.1-test\nwrite {} boot/initrd.img-6.1-test\n", other.display()));
    let upgraded = known(&disk);
    assert_ne!(upgraded["found"]["stamp"], first["found"]["stamp"]);
    assert_ne!(upgraded["found"]["bootable"]["own"]["key"], first["found"]["bootable"]["own"]["key"]);
    let key = upgraded["found"]["bootable"]["own"]["key"].as_str().expect("key");
    assert_eq!(fs::read(place.path().join("cache").join(key).join("initrd")).expect("initrd"), b"newer initrd");
    // So does a program that writes into it.
    change(&disk, "set_inode_field boot/initrd.img-6.1-test mtime 20300101000000\n");
    assert_ne!(known(&disk)["found"]["stamp"], upgraded["found"]["stamp"]);
}

#[test]
fn a_boot_loader_that_says_something_else_is_heard() {
    let place = Place::new();
    let root = place.path().join("root");
    system(&root);
    let stamp = |arguments: &str| {
        fs::create_dir_all(root.join("boot/grub")).expect("mkdir");
        let config = format!("menuentry x {{\nlinux /boot/vmlinuz-6.1-test {arguments}\n}}\n");
        fs::write(root.join("boot/grub/grub.cfg"), config).expect("write");
        report(&place, &ext4(&place, &root), None).expect("boot")["found"]["stamp"].clone()
    };
    assert_ne!(stamp("quiet"), stamp("debug"));
}

#[test]
fn disks_without_a_kernel_are_told_so() {
    let place = Place::new();
    let root = place.path().join("root");
    fs::create_dir_all(root.join("etc")).expect("mkdir");
    std::os::unix::fs::symlink("vmlinuz", root.join("vmlinuz")).expect("link");
    let only_root = serde_json::json!({ "root_only": { "device": "/dev/vda" } });
    assert_eq!(look(&place, &ext4(&place, &root)).expect("a root"), only_root);
    fs::remove_dir(root.join("etc")).expect("rmdir");
    let failure = look(&place, &ext4(&place, &root)).expect_err("no kernel");
    assert!(failure.message.contains("neither a kernel"), "{failure:?}");
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
