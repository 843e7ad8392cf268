//! Tar archives, mostly hostile ones.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use tar::EntryType;

use crate::kit::{METADATA, Place, Tar, refused, save};

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let size = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(size);
    Some(value)
}

/// `cap_net_raw=ep` as it is kept on disk, with a newline among its bytes for good measure.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0x0a, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn owners_modes_times_and_attributes_are_kept() {
    let place = Place::new();
    let archive = Tar::unified()
        .file("rootfs/su", b"program", 0o4755)
        .attributes(&[("security.capability", CAPABILITY), ("user.note", b"n"), ("trusted.host", b"t")])
        .file("rootfs/ping", b"program", 0o755)
        .entry("rootfs/fifo", EntryType::Fifo, "", &[], 0o600)
        .symlink("rootfs/link", "/etc/passwd")
        .file("rootfs/zeros", &[0; 300_000], 0o600)
        .hard_link("rootfs/again", "rootfs/ping")
        .file("templates/a.tpl", b"t", 0o644)
        .save(place.path(), "image.tar");
    place.unpack(&archive, None, &[]).expect("unpack");
    let rootfs = place.dest().join("rootfs");
    let info = fs::metadata(rootfs.join("su")).expect("su");
    assert_eq!((info.mode() & 0o7777, info.uid(), info.gid(), info.mtime()), (0o4755, 1234, 2345, 1_600_000_000));
    let ping = rootfs.join("ping");
    assert_eq!(attribute(&ping, "security.capability").as_deref(), Some(CAPABILITY));
    assert_eq!(attribute(&ping, "trusted.host"), None);
    assert_eq!(fs::metadata(&ping).expect("ping").nlink(), 2);
    assert!(fs::symlink_metadata(rootfs.join("fifo")).expect("fifo").file_type().is_fifo());
    assert_eq!(fs::read_link(rootfs.join("link")).expect("link"), Path::new("/etc/passwd"));
    let zeros = fs::metadata(rootfs.join("zeros")).expect("zeros");
    assert_eq!(zeros.len(), 300_000);
    assert!(zeros.blocks() * 512 < 300_000);
    assert_eq!(fs::metadata(&rootfs).expect("rootfs").mtime(), 1_600_000_000);
    assert_eq!(fs::read_to_string(place.dest().join("templates/a.tpl")).expect("template"), "t");
}

#[test]
fn every_compression_is_taken() {
    use std::io::Write;
    let bytes = Tar::unified().file("rootfs/x", b"content", 0o644).bytes();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).expect("gzip");
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&bytes).expect("xz");
    let zstd = zstd::encode_all(bytes.as_slice(), 1).expect("zstd");
    for (name, content) in [("gzip", gzip.finish().expect("gzip")), ("xz", xz.finish().expect("xz")), ("zstd", zstd)] {
        let place = Place::new();
        let archive = save(place.path(), name, &content);
        place.unpack(&archive, None, &[]).expect(name);
        assert_eq!(fs::read_to_string(place.dest().join("rootfs/x")).expect(name), "content");
    }
}

#[test]
fn a_tar_beside_the_metadata_is_taken() {
    let place = Place::new();
    let metadata = Tar::new().file("metadata.yaml", METADATA.as_bytes(), 0o644).file("rootfs", b"decoy", 0o644);
    let metadata = metadata.save(place.path(), "meta.tar");
    let rootfs = Tar::new()
        .entry("./", EntryType::Directory, "", &[], 0o755)
        .file("./etc/x", b"content", 0o644)
        .file("./dev/null", b"not a device", 0o644)
        .save(place.path(), "rootfs.tar");
    place.unpack(&metadata, Some(&rootfs), &[]).expect("unpack");
    assert_eq!(fs::read_to_string(place.dest().join("rootfs/etc/x")).expect("x"), "content");
    assert!(!place.dest().join("rootfs/dev/null").exists());
}

#[test]
fn absolute_names_stay_inside() {
    let place = Place::new();
    let archive = Tar::unified().file("/rootfs/etc/evil", b"x", 0o644).file("/etc/evil", b"x", 0o644);
    let archive = archive.save(place.path(), "image.tar");
    place.unpack(&archive, None, &[]).expect("unpack");
    assert!(place.dest().join("rootfs/etc/evil").exists());
    assert!(!place.dest().join("etc").exists(), "only known names are unpacked");
}

#[test]
fn climbing_names_are_refused() {
    for name in ["rootfs/../../outside/evil", "../outside/evil", "rootfs/a/../../../evil"] {
        let place = Place::new();
        let archive = Tar::unified().file(name, b"x", 0o644).save(place.path(), "image.tar");
        refused(place.unpack(&archive, None, &[]), "leads out");
    }
    let place = Place::new();
    let archive = Tar::unified().hard_link("rootfs/x", "../outside/secret").save(place.path(), "image.tar");
    refused(place.unpack(&archive, None, &[]), "leads out");
}

#[test]
fn writing_through_links_stays_inside() {
    let place = Place::new();
    let outside = place.path().join("outside");
    let outside = outside.to_str().expect("path");
    for to in [outside, "/tmp", "../../../../../../../../tmp", "/", "loop"] {
        let place = Place::new();
        let archive = Tar::unified().symlink("rootfs/loop", "loop").symlink("rootfs/link", to);
        let archive = archive.file("rootfs/link/evil", b"x", 0o644).save(place.path(), "image.tar");
        // Whatever comes of it, nothing outside is touched (checked by `unpack`).
        if let Err(failure) = place.unpack(&archive, None, &[]) {
            assert_eq!(failure.fault, berth_images::wire::Fault::Invalid, "{failure:?}");
        }
    }
    let archive = Tar::unified().symlink("rootfs/file", "/tmp/evil").file("rootfs/file", b"x", 0o644);
    let archive = archive.symlink("templates", "/etc").save(place.path(), "image.tar");
    refused(place.unpack(&archive, None, &[]), "\"templates\" of the image is no directory");
    assert!(fs::symlink_metadata(place.dest().join("rootfs/file")).expect("file").is_file());
}

#[test]
fn hard_links_cannot_reach_outside() {
    let place = Place::new();
    let secret = place.path().join("outside/secret");
    let archive = Tar::unified()
        .symlink("rootfs/dir", place.path().join("outside").to_str().expect("path"))
        .hard_link("rootfs/stolen", "rootfs/dir/secret")
        .save(place.path(), "image.tar");
    assert!(place.unpack(&archive, None, &[]).is_err());
    assert_eq!(fs::metadata(secret).expect("secret").nlink(), 1);
}

#[test]
fn device_nodes_are_left_out() {
    let place = Place::new();
    let archive = Tar::unified()
        .entry("rootfs/null", EntryType::Char, "", &[], 0o666)
        .entry("rootfs/disk", EntryType::Block, "", &[], 0o666)
        .file("rootfs/dev/x", b"x", 0o644)
        .save(place.path(), "image.tar");
    place.unpack(&archive, None, &[]).expect("unpack");
    assert_eq!(fs::read_dir(place.dest().join("rootfs")).expect("rootfs").count(), 0);
}

#[test]
fn odd_top_level_names_are_refused() {
    let kinds = [EntryType::Symlink, EntryType::Fifo, EntryType::Directory];
    for kind in kinds {
        let place = Place::new();
        let archive = Tar::new()
            .entry("rootfs/", EntryType::Directory, "", &[], 0o755)
            .entry("metadata.yaml", kind, if kind == EntryType::Symlink { "/etc/passwd" } else { "" }, &[], 0o644)
            .save(place.path(), "image.tar");
        refused(place.unpack(&archive, None, &[]), "metadata.yaml");
    }
    let place = Place::new();
    let archive = Tar::new().file("metadata.yaml", METADATA.as_bytes(), 0o644).symlink("rootfs", "/etc");
    let archive = archive.save(place.path(), "image.tar");
    refused(place.unpack(&archive, None, &[]), "\"rootfs\" of the image is no directory");
    let place = Place::new();
    let archive = Tar::unified().symlink("metadata.yaml", "rootfs/x").file("rootfs/x", b"x", 0o644);
    let archive = archive.save(place.path(), "image.tar");
    refused(place.unpack(&archive, None, &[]), "metadata.yaml");
}

#[test]
fn bombs_are_stopped() {
    let place = Place::new();
    let archive = Tar::unified().file("rootfs/big", &vec![1; 3 << 20], 0o644).bytes();
    let archive = save(place.path(), "image.tar.zst", &zstd::encode_all(archive.as_slice(), 1).expect("zstd"));
    refused(place.unpack(&archive, None, &["--max-bytes", "1000000"]), "more than 1000000 bytes");
    let many = (0..200).fold(Tar::unified(), |tar, n| tar.file(&format!("rootfs/{n}"), b"", 0o644));
    let place = Place::new();
    let archive = many.save(place.path(), "image.tar");
    refused(place.unpack(&archive, None, &["--max-entries", "100"]), "more than 100 files");
}

#[test]
fn damaged_archives_are_told_so() {
    let bytes = Tar::unified().file("rootfs/x", &[7; 100_000], 0o644).bytes();
    let compressed = zstd::encode_all(bytes.as_slice(), 1).expect("zstd");
    for content in [&bytes[..20_000], &compressed[..compressed.len() - 20], b"no archive at all", b""] {
        let place = Place::new();
        let archive = save(place.path(), "image.tar", content);
        let failure = place.unpack(&archive, None, &[]).expect_err("damaged");
        assert_eq!(failure.fault, berth_images::wire::Fault::Invalid, "{failure:?}");
    }
}
