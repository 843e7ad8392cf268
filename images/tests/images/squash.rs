//! squashfs images, mostly hostile ones.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::{METADATA, Place, Tar, refused, save};

/// Makes a squashfs of `source` with further entries in mksquashfs' pseudo file syntax.
fn squashfs(place: &Place, source: &Path, pseudo: &str) -> PathBuf {
    let definitions = save(place.path(), "pseudo", pseudo.as_bytes());
    let image = place.path().join("rootfs.squashfs");
    let output = Command::new("mksquashfs")
        .arg(source)
        .arg(&image)
        .args(["-noappend", "-quiet", "-no-progress", "-pf"])
        .arg(definitions)
        .output()
        .expect("mksquashfs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    image
}

fn metadata(place: &Place) -> PathBuf {
    Tar::new().file("metadata.yaml", METADATA.as_bytes(), 0o644).save(place.path(), "meta.tar")
}

fn source(place: &Place) -> PathBuf {
    let source = place.path().join("source");
    fs::create_dir_all(source.join("etc")).expect("mkdir");
    let noise = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<u8>>();
    fs::write(source.join("etc/file"), noise).expect("write");
    source
}

#[test]
fn devices_are_left_out_and_the_rest_is_kept() {
    let place = Place::new();
    let pseudo =
        "/null c 666 0 0 1 3\n/disk b 660 0 6 8 0\n/owned f 4755 1000 1000 echo text\n/abs s 777 0 0 /etc/passwd\n";
    let image = squashfs(&place, &source(&place), pseudo);
    place.unpack(&metadata(&place), Some(&image), &[]).expect("unpack");
    let rootfs = place.dest().join("rootfs");
    assert!(!rootfs.join("null").exists() && !rootfs.join("disk").exists());
    let owned = fs::metadata(rootfs.join("owned")).expect("owned");
    assert_eq!((owned.mode() & 0o7777, owned.uid()), (0o4755, 1000));
    assert_eq!(fs::metadata(rootfs.join("etc/file")).expect("file").len(), 200_000);
}

#[test]
fn host_attributes_are_left_out() {
    let place = Place::new();
    let source = source(&place);
    let file = source.join("etc/file");
    let set = |name: &str| rustix::fs::setxattr(&file, name, b"x", rustix::fs::XattrFlags::empty()).is_ok();
    // The file system of the test may not know these at all.
    let (trusted, user) = (set("trusted.host"), set("user.note"));
    let image = squashfs(&place, &source, "");
    place.unpack(&metadata(&place), Some(&image), &[]).expect("unpack");
    let there =
        |name: &str| rustix::fs::getxattr(place.dest().join("rootfs/etc/file"), name, [0u8; 8].as_mut_slice()).is_ok();
    assert!(!trusted || !there("trusted.host"));
    assert_eq!(user, there("user.note"));
}

#[test]
fn bombs_are_stopped_before_anything_is_written() {
    let place = Place::new();
    let source = source(&place);
    fs::File::create(source.join("sparse")).expect("create").set_len(64 << 20).expect("size");
    let image = squashfs(&place, &source, "");
    refused(place.unpack(&metadata(&place), Some(&image), &["--max-bytes", "10000000"]), "unpacks to more than");
    assert!(!place.dest().join("rootfs").exists());

    let place = Place::new();
    let many: String = (0..50).map(|n| format!("/d{n} d 755 0 0\n")).collect();
    let image = squashfs(&place, &self::source(&place), &many);
    refused(place.unpack(&metadata(&place), Some(&image), &["--max-entries", "40"]), "more than 40 files");
}

#[test]
fn damaged_ones_are_told_so() {
    let place = Place::new();
    let image = squashfs(&place, &source(&place), "");
    let bytes = fs::read(&image).expect("read");
    for cut in [100, bytes.len() / 2] {
        let place = Place::new();
        let image = save(place.path(), "cut", &bytes[..cut]);
        refused(place.unpack(&metadata(&place), Some(&image), &[]), "damaged");
    }
    let mut scrambled = bytes;
    for byte in scrambled.iter_mut().skip(96).step_by(3) {
        *byte ^= 0x55;
    }
    let place = Place::new();
    let image = save(place.path(), "scrambled", &scrambled);
    assert!(place.unpack(&metadata(&place), Some(&image), &[]).is_err());
}

#[test]
fn a_disk_is_no_root_file_system() {
    let place = Place::new();
    let disk = save(place.path(), "disk", b"QFI\xfb\0\0\0\x03 and so on");
    refused(place.unpack(&metadata(&place), Some(&disk), &[]), "virtual machine");
}

#[test]
fn a_private_destination_stays_private() {
    let place = Place::new();
    fs::set_permissions(place.dest(), fs::Permissions::from_mode(0o711)).expect("chmod");
    let image = squashfs(&place, &source(&place), "/ m 777 0 0\n");
    place.unpack(&metadata(&place), Some(&image), &[]).expect("unpack");
    assert_eq!(fs::metadata(place.dest()).expect("dest").mode() & 0o7777, 0o711);
}
