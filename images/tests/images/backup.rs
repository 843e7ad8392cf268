//! Backups, mostly hostile ones.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use berth_images::wire::Failure;
use tar::EntryType;

use crate::kit::{HELPER, METADATA, Place, Tar, outcome, refused, run};

fn index(kind: &str, snapshots: &[&str]) -> String {
    let names: Vec<String> = snapshots.iter().map(|name| format!("- {name}\n")).collect();
    let entries: Vec<String> = snapshots.iter().map(|name| format!("  - config: {{}}\n    name: {name}\n")).collect();
    format!(
        "name: c1\nbackend: dir\npool: default\nsnapshots:\n{}optimized: false\ntype: {kind}\nconfig:\n  container:\n    \
         config: {{}}\n    name: c1\n  snapshots:\n{}",
        names.concat(),
        entries.concat()
    )
}

fn container(snapshots: &[&str]) -> Tar {
    Tar::new().file("backup/index.yaml", index("container", snapshots).as_bytes(), 0o644)
}

/// One of a container with a root file system.
fn good() -> Tar {
    container(&[]).entry("backup/container/rootfs/", EntryType::Directory, "", &[], 0o755)
}

/// Unpacks into `dest` and, for each snapshot, a directory of its name.
fn unpack(place: &Place, archive: &Path, kind: &str, snapshots: &[&str]) -> Result<serde_json::Value, Failure> {
    let mut command = Command::new(HELPER);
    command.args(["backup-unpack", "--kind", kind, "--disk-max", "100000000"]);
    command.arg("--archive").arg(archive).arg("--volume").arg(place.dest());
    for name in snapshots {
        fs::create_dir(place.path().join(name)).expect("mkdir");
        command.args(["--snapshot", name, "--at"]).arg(place.path().join(name));
    }
    let outcome = outcome(&run(command));
    place.check_outside();
    outcome
}

fn describe(archive: &Path) -> Result<serde_json::Value, Failure> {
    let mut command = Command::new(HELPER);
    command.arg("backup-describe").arg("--archive").arg(archive);
    outcome(&run(command))
}

#[test]
fn a_container_comes_back_with_its_snapshots() {
    let place = Place::new();
    let archive = container(&["s0", "s1"])
        .entry("backup/snapshots/s0/rootfs/", EntryType::Directory, "", &[], 0o755)
        .file("backup/snapshots/s0/rootfs/old", b"old", 0o600)
        .entry("backup/snapshots/s1/rootfs/", EntryType::Directory, "", &[], 0o755)
        .file("backup/container/backup.yaml", b"not for us", 0o600)
        .file("backup/container/metadata.yaml", METADATA.as_bytes(), 0o644)
        .file("backup/container/templates/a.tpl", b"t", 0o644)
        .file("backup/container/rootfs/file", b"content", 0o4755)
        .attributes(&[("user.note", b"n")])
        .file("backup/container/rootfs/noted", b"content", 0o600)
        .hard_link("backup/container/rootfs/again", "backup/container/rootfs/file")
        .device("backup/container/rootfs/null", 1, 3)
        .device("backup/container/rootfs/whiteout", 0, 0)
        .device("backup/container/rootfs/mem", 1, 1)
        .entry("backup/container/rootfs/disk", EntryType::Block, "", &[], 0o666)
        .save(place.path(), "c1.tar");
    let described = describe(&archive).expect("describe");
    assert_eq!((&described["name"], &described["kind"]), (&"c1".into(), &"container".into()));
    assert_eq!(described["snapshots"].as_array().expect("a list").len(), 2);
    let summary = unpack(&place, &archive, "container", &["s0", "s1"]).expect("unpack");
    assert_eq!(summary["devices_left_out"], 2);
    let rootfs = place.dest().join("rootfs");
    let info = fs::metadata(rootfs.join("file")).expect("file");
    assert_eq!((info.mode() & 0o7777, info.uid(), info.gid(), info.nlink()), (0o4755, 1234, 2345, 2));
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(rootfs.join("noted"), "user.note", &mut value), Ok(1));
    for (name, number) in [("null", (1, 3)), ("whiteout", (0, 0))] {
        let info = fs::symlink_metadata(rootfs.join(name)).expect(name);
        let rdev = (rustix::fs::major(info.rdev()), rustix::fs::minor(info.rdev()));
        assert_eq!((info.file_type().is_char_device(), rdev), (true, number), "{name}");
    }
    assert!(!rootfs.join("mem").exists() && !rootfs.join("disk").exists());
    assert_eq!(fs::read_to_string(place.path().join("s0/rootfs/old")).expect("old"), "old");
    let mut made: Vec<_> = fs::read_dir(place.dest()).expect("dest").map(|e| e.expect("entry").file_name()).collect();
    made.sort();
    assert_eq!(made, ["metadata.yaml", "rootfs", "templates"]);
}

#[test]
fn a_disk_comes_back_with_its_holes() {
    let mut disk = vec![0; 40 << 20];
    disk[30 << 20] = 1;
    for large in [false, true] {
        let place = Place::new();
        let archive = Tar::new().file("backup/index.yaml", index("virtual-machine", &["s0"]).as_bytes(), 0o644);
        let archive = archive.file("backup/virtual-machine-snapshots/s0.img", b"old disk", 0o600);
        let archive = match large {
            true => archive.large("backup/virtual-machine.img", &disk),
            false => archive.file("backup/virtual-machine.img", &disk, 0o600),
        };
        let archive = archive.file("backup/virtual-machine/metadata.yaml", METADATA.as_bytes(), 0o644);
        let archive = archive.file("backup/virtual-machine/qemu.nvram", b"not for us", 0o600);
        let archive = archive.save(place.path(), "v1.tar");
        unpack(&place, &archive, "virtual-machine", &["s0"]).expect("unpack");
        let path = place.dest().join("root.img");
        assert!(fs::read(&path).expect("disk") == disk, "the disk is the same");
        assert!(fs::metadata(&path).expect("disk").blocks() * 512 < 1 << 20, "holes are holes");
        assert_eq!(fs::read(place.path().join("s0/root.img")).expect("old disk"), b"old disk");
        assert!(place.dest().join("metadata.yaml").exists() && !place.dest().join("qemu.nvram").exists());
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    for name in ["backup/container/rootfs/../../../evil", "../evil", "backup/../../evil"] {
        let place = Place::new();
        let archive = good().file(name, b"x", 0o644).save(place.path(), "c1.tar");
        refused(unpack(&place, &archive, "container", &[]).map(drop), "leads out");
    }
    let place = Place::new();
    let archive = good().file("/tmp/evil", b"x", 0o644).file("/backup/container/rootfs/in", b"x", 0o644);
    let archive = archive.file("evil", b"x", 0o644).save(place.path(), "c1.tar");
    unpack(&place, &archive, "container", &[]).expect("what has no place is passed over");
    assert!(place.dest().join("rootfs/in").exists());
}

#[test]
fn links_stay_in_their_volume() {
    let place = Place::new();
    let archive = container(&["s0"])
        .file("backup/snapshots/s0/rootfs/secret", b"x", 0o600)
        .file("backup/container/rootfs/file", b"x", 0o600)
        .hard_link("backup/container/rootfs/stolen", "backup/snapshots/s0/rootfs/secret")
        .save(place.path(), "c1.tar");
    refused(unpack(&place, &archive, "container", &["s0"]).map(drop), "leads out");
    for to in ["/outside", "../../../../outside", "/"] {
        let place = Place::new();
        let archive = good().symlink("backup/container/rootfs/link", to);
        let archive = archive.file("backup/container/rootfs/link/evil", b"x", 0o644).save(place.path(), "c1.tar");
        // Whatever comes of it, nothing outside is touched (checked by `unpack`).
        if let Err(failure) = unpack(&place, &archive, "container", &[]) {
            assert_eq!(failure.fault, berth_images::wire::Fault::Invalid, "{failure:?}");
        }
    }
}

#[test]
fn volumes_that_are_not_whole_are_refused() {
    let cases: [(&str, Tar, &str, &[&str], &str); 6] = [
        ("no root file system", container(&[]), "container", &[], "root file system of the instance"),
        (
            "a link in its place",
            container(&[]).symlink("backup/container/rootfs", "/"),
            "container",
            &[],
            "root file system",
        ),
        ("no snapshot", good(), "container", &["s0"], "snapshot \"s0\""),
        ("no disk", good(), "virtual-machine", &[], "disk of the instance"),
        (
            "a link for a disk",
            good().symlink("backup/virtual-machine.img", "/dev/sda"),
            "virtual-machine",
            &[],
            "disk of",
        ),
        ("templates", good().symlink("backup/container/templates", "/etc"), "container", &[], "templates"),
    ];
    for (what, archive, kind, snapshots, why) in cases {
        let place = Place::new();
        let archive = archive.save(place.path(), "c1.tar");
        let failure = unpack(&place, &archive, kind, snapshots).expect_err(what);
        assert!(failure.message.contains(why), "{what}: {failure:?}");
    }
    let place = Place::new();
    let disk = Tar::new().large("backup/virtual-machine.img", &vec![0; 101_000_000]);
    refused(unpack(&place, &disk.save(place.path(), "v1.tar"), "virtual-machine", &[]).map(drop), "raise its size");
}

#[test]
fn an_index_that_is_none_is_refused() {
    let place = Place::new();
    let save = |tar: Tar| -> PathBuf { tar.save(place.path(), "c1.tar") };
    let alias = format!("name: &a [x, x]\nother: [*a, *a]\n{}", index("container", &[]));
    let huge = format!("{}#{}", index("container", &[]), "x".repeat(5 << 20));
    for (archive, why) in [
        (Tar::unified(), "missing index.yaml"),
        (Tar::new().symlink("backup/index.yaml", "/etc/passwd"), "not a regular file"),
        (Tar::new().entry("backup/index.yaml", EntryType::Fifo, "", &[], 0o644), "not a regular file"),
        (Tar::new().entry("backup/index.yaml/", EntryType::Directory, "", &[], 0o755), "not a regular file"),
        (Tar::new().file("backup/index.yaml", alias.as_bytes(), 0o644), "index.yaml"),
        (Tar::new().file("backup/index.yaml", huge.as_bytes(), 0o644), "more than the"),
        (Tar::new().file("backup/index.yaml", b"\xff\xfe", 0o644), "UTF-8"),
        (Tar::new().file("backup/index.yaml", b"name: c1\n", 0o644), "backup.yaml"),
        (Tar::new().file("backup/index.yaml", index("jail", &[]).as_bytes(), 0o644), "index.yaml"),
    ] {
        refused(describe(&save(archive)).map(drop), why);
    }
    let old = Tar::new().file("backup/index.yaml", b"name: c1\npool: p\nbackend: dir\n", 0o644);
    let old = old.file("backup/container/backup.yaml", b"container:\n  name: c1\n  config: {user.x: y}\n", 0o600);
    assert_eq!(describe(&save(old)).expect("one of an old version")["instance"]["config"]["user.x"], "y");
}

#[test]
fn owners_that_were_shifted_come_back() {
    let place = Place::new();
    let archive = container(&["s0"])
        .file("backup/snapshots/s0/rootfs/file", b"x", 0o600)
        .file("backup/container/rootfs/file", b"x", 0o600)
        .save(place.path(), "c1.tar");
    fs::create_dir(place.path().join("s0")).expect("mkdir");
    let mut command = Command::new(HELPER);
    command.args(["backup-unpack", "--kind", "container", "--disk-max", "0", "--snapshot", "s0", "--at"]);
    command.arg(place.path().join("s0")).arg("--archive").arg(archive).arg("--volume").arg(place.dest());
    let both = r#"[{"Isuid":true,"Isgid":true,"Hostid":1000,"Nsid":0,"Maprange":65536}]"#;
    command.args(["--idmap", "", "--idmap", both]);
    outcome(&run(command)).expect("unpack");
    let owner = |path: PathBuf| fs::metadata(path).map(|info| (info.uid(), info.gid())).expect("file");
    assert_eq!(owner(place.dest().join("rootfs/file")), (234, 1345));
    assert_eq!(owner(place.path().join("s0/rootfs/file")), (1234, 2345));
}
