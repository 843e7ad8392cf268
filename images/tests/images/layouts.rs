//! Disks laid out as the distributions' cloud images are.

use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::boot::{boot, bzimage, ext4, look, system};
use crate::kit::Place;

const MIB: u64 = 1 << 20;

/// A partition to be made: its number, its place and size in MiB, and what is in it.
struct Part {
    number: u32,
    at: u64,
    size: u64,
    content: Vec<u8>,
}

fn part(number: u32, at: u64, size: u64, content: Vec<u8>) -> Part {
    assert!(content.len() as u64 <= size * MIB, "it fits");
    Part { number, at, size, content }
}

/// A disk with a GPT; gives its path and the unique id of partition 1.
fn gpt_disk(place: &Place, parts: &[Part]) -> (PathBuf, String) {
    let path = place.path().join("gpt.img");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&path).expect("create");
    let end = parts.iter().map(|part| part.at + part.size).max().expect("parts");
    file.set_len((end + 1) * MIB).expect("size");
    let mut table =
        gpt::GptConfig::new().writable(true).create_from_device(file.try_clone().expect("clone"), None).expect("gpt");
    let mut made = std::collections::BTreeMap::new();
    for part in parts {
        let guid = uuid::Uuid::new_v4();
        let entry = gpt::partition::Partition {
            part_type_guid: gpt::partition_types::LINUX_FS,
            part_guid: guid,
            first_lba: part.at * MIB / 512,
            last_lba: (part.at + part.size) * MIB / 512 - 1,
            flags: 0,
            name: String::new(),
        };
        made.insert(part.number, entry);
    }
    let first = made[&1].part_guid.to_string();
    table.update_partitions(made).expect("partitions");
    table.write().expect("write");
    for part in parts {
        file.write_all_at(&part.content, part.at * MIB).expect("write");
    }
    (path, first)
}

fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
    fs::write(path, content).expect("write");
}

/// An ext4 file system with what is in a directory.
fn filled(place: &Place, root: &Path) -> Vec<u8> {
    fs::read(ext4(place, root)).expect("read")
}

/// A FAT file system, an EFI system partition for instance.
fn fat(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![0; 8 << 20]);
    fatfs::format_volume(&mut bytes, fatfs::FormatVolumeOptions::new()).expect("format");
    let fs = fatfs::FileSystem::new(&mut bytes, fatfs::FsOptions::new()).expect("open");
    for (path, content) in files {
        let mut directory = fs.root_dir();
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        for parent in parents.split('/').filter(|part| !part.is_empty()) {
            directory = directory.create_dir(parent).expect("mkdir");
        }
        directory.create_file(name).expect("create").write_all(content).expect("write");
    }
    fs.unmount().expect("unmount");
    bytes.into_inner()
}

fn grub_config(prefix: &str, arguments: &str) -> String {
    format!(
        "set default=\"0\"\nfunction load_video {{\n  insmod all_video\n}}\nmenuentry 'System' --class gnu-linux \
         $menuentry_id_option 'simple' {{\n\tinsmod part_gpt\n\tsearch --no-floppy --fs-uuid --set=root 11-22\n\
         \tlinux\t{prefix}/vmlinuz-6.1-test {arguments}\n\tinitrd\t{prefix}/initrd.img-6.1-test\n}}\nsubmenu 'Advanced' \
         $menuentry_id_option 'advanced' {{\n\tmenuentry 'older' {{\n\t\tlinux\t{prefix}/vmlinuz-5 root=/dev/sda\n\t}}\n}}\n"
    )
}

/// The first partition is the root and the last on the disk; a BIOS boot and an EFI partition come before it.
#[test]
fn debian_boots() {
    let place = Place::new();
    let root = place.path().join("root");
    system(&root);
    write(
        &root,
        "boot/grub/grub.cfg",
        grub_config("/boot", "root=PARTUUID=aa ro console=tty0 console=ttyS0,115200").as_bytes(),
    );
    let efi = fat(&[("EFI/debian/grub.cfg", b"search.fs_uuid 11-22 root\nconfigfile $prefix/grub.cfg\n")]);
    let parts = [part(14, 1, 3, vec![0xeb; 512]), part(15, 4, 8, efi), part(1, 12, 32, filled(&place, &root))];
    let (disk, _) = gpt_disk(&place, &parts);
    let found = boot(&place, &disk).expect("boot");
    assert_eq!((&found["root"], &found["args"]), (&json!("root=PARTUUID=aa"), &json!(["ro"])));
    assert_eq!(found["release"], "6.1-test");
    assert_eq!(found["modules"], json!(["vsock.ko", "vmw_vsock_virtio_transport.ko"]));
    assert_eq!(found["initrd"], true);
}

/// `/boot` is a partition of its own; modules are in the root.
#[test]
fn ubuntu_boots() {
    let place = Place::new();
    let root = place.path().join("root");
    system(&root);
    let own = place.path().join("boot");
    for name in ["vmlinuz-6.1-test", "initrd.img-6.1-test"] {
        write(&own, name, &fs::read(root.join("boot").join(name)).expect("read"));
    }
    fs::remove_dir_all(root.join("boot")).expect("remove");
    fs::create_dir(root.join("boot")).expect("mkdir");
    write(&own, "grub/grub.cfg", grub_config("", "root=LABEL=cloudimg-rootfs ro console=ttyS0").as_bytes());
    let parts = [
        part(14, 1, 3, vec![0xeb; 512]),
        part(15, 4, 8, fat(&[])),
        part(16, 12, 32, filled(&place, &own)),
        part(1, 44, 32, filled(&place, &root)),
    ];
    let (disk, _) = gpt_disk(&place, &parts);
    let found = boot(&place, &disk).expect("boot");
    assert_eq!((&found["root"], &found["release"]), (&json!("root=LABEL=cloudimg-rootfs"), &json!("6.1-test")));
    assert_eq!(found["modules"], json!(["vsock.ko", "vmw_vsock_virtio_transport.ko"]));
}

/// Entries of the Boot Loader Specification on an ext4 `/boot`, with a root that only the guest can read.
#[test]
fn fedora_boots_though_its_root_is_btrfs() {
    let place = Place::new();
    let own = place.path().join("boot");
    write(&own, "vmlinuz-6.1-test", &bzimage("6.1-test"));
    write(&own, "initramfs-6.1-test.img", b"initrd");
    let entry =
        "title Fedora\nlinux /vmlinuz-6.1-test\ninitrd /initramfs-6.1-test.img\noptions root=UUID=77 ro $kernelopts\n";
    write(&own, "loader/entries/aa-6.1-test.conf", entry.as_bytes());
    write(&own, "grub2/grubenv", b"# GRUB Environment Block\nkernelopts=rootflags=subvol=root\n####");
    let mut btrfs = vec![0; 0x1_0100];
    btrfs[0x1_0040..0x1_0048].copy_from_slice(b"_BHRfS_M");
    let (disk, _) = gpt_disk(&place, &[part(1, 40, 4, btrfs.clone()), part(2, 1, 32, filled(&place, &own))]);
    let found = boot(&place, &disk).expect("boot");
    assert_eq!(found["root"], "root=UUID=77");
    assert_eq!(found["args"], json!(["ro", "rootflags=subvol=root"]));
    let (disk, _) = gpt_disk(&place, &[part(1, 1, 4, btrfs)]);
    let failure = look(&place, &disk).expect_err("nothing to boot");
    assert!(failure.message.contains("partition 1 holds btrfs"), "{failure:?}");
}

/// Kernel and entries on the EFI system partition.
#[test]
fn systemd_boot_boots() {
    let place = Place::new();
    let root = place.path().join("root");
    system(&root);
    for path in ["boot", "vmlinuz", "initrd.img"] {
        let path = root.join(path);
        fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).expect("remove");
    }
    let entry = b"title Linux\nlinux /0123456789abcdef/6.1-test/linux\ninitrd /0123456789abcdef/6.1-test/initrd\noptions quiet\n";
    let kernel = bzimage("6.1-test");
    let efi = fat(&[
        ("loader/entries/0123456789abcdef-6.1-test.conf", entry),
        ("0123456789abcdef/6.1-test/linux", &kernel),
        ("0123456789abcdef/6.1-test/initrd", b"initrd"),
    ]);
    let (disk, guid) = gpt_disk(&place, &[part(2, 1, 8, efi), part(1, 9, 32, filled(&place, &root))]);
    let found = boot(&place, &disk).expect("boot");
    assert_eq!((&found["root"], &found["args"]), (&json!(format!("root=PARTUUID={guid}")), &json!(["quiet"])));
    assert_eq!(found["release"], "6.1-test");
}

/// An old partition table and extlinux.
#[test]
fn alpine_boots() {
    let place = Place::new();
    let root = place.path().join("root");
    fs::create_dir_all(root.join("etc")).expect("mkdir");
    write(&root, "boot/vmlinuz-virt", &bzimage("6.6.1-0-virt"));
    write(&root, "boot/initramfs-virt", b"initrd");
    let config =
        b"DEFAULT virt\nLABEL virt\n  LINUX vmlinuz-virt\n  INITRD initramfs-virt\n  APPEND root=UUID=5 modules=ext4\n";
    write(&root, "boot/extlinux.conf", config);
    let content = filled(&place, &root);
    let disk = place.path().join("mbr.img");
    let file = File::create(&disk).expect("create");
    let mut table = [0; 512];
    table[446..450].copy_from_slice(&[0x80, 0, 0, 0]);
    table[450] = 0x83;
    table[454..458].copy_from_slice(&2048u32.to_le_bytes());
    table[458..462].copy_from_slice(&(32u32 << 11).to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    file.write_all_at(&table, 0).expect("write");
    file.write_all_at(&content, MIB).expect("write");
    let found = boot(&place, &disk).expect("boot");
    assert_eq!((&found["root"], &found["release"]), (&json!("root=UUID=5"), &json!("6.6.1-0-virt")));
    assert_eq!(found["args"], json!(["modules=ext4"]));
}

/// A root file system in a partition, without a kernel.
#[test]
fn a_root_without_a_kernel_is_found_in_its_partition() {
    let place = Place::new();
    let root = place.path().join("root");
    fs::create_dir_all(root.join("etc")).expect("mkdir");
    let (disk, _) = gpt_disk(&place, &[part(15, 1, 8, fat(&[])), part(1, 9, 32, filled(&place, &root))]);
    assert_eq!(look(&place, &disk).expect("a root"), json!({ "root_only": { "device": "/dev/vda1" } }));
}

#[test]
fn what_cannot_be_read_is_named() {
    let place = Place::new();
    let xfs = crate::kit::save(place.path(), "xfs", &[b"XFSB".as_slice(), &[0; 1 << 20]].concat());
    let failure = look(&place, &xfs).expect_err("xfs");
    assert!(failure.message.contains("the disk holds xfs; Berth boots kernels from ext4 or FAT"), "{failure:?}");
}
