//! Backups: exported, imported, kept for a while, and with faults in the middle.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use berth_tests::{Daemon, Run, Terminal, Watch};

/// Names in a directory of the daemon.
fn names(daemon: &Daemon, dir: &str) -> Vec<String> {
    let entries = fs::read_dir(daemon.dir().join(dir)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Number of volumes of a kind in the default pool.
fn volumes(daemon: &Daemon, kind: &str) -> usize {
    fs::read_dir(daemon.volume_dir(kind)).unwrap().count()
}

/// Root file system of the only container.
fn rootfs(daemon: &Daemon) -> PathBuf {
    fs::read_dir(daemon.volume_dir("containers")).unwrap().next().unwrap().unwrap().path().join("rootfs")
}

/// Makes files of all kinds, of somebody in the container.
fn fill(root: &Path) {
    fs::write(root.join("file"), "content").unwrap();
    chown(root.join("file"), Some(33), Some(44)).unwrap();
    Run::new("chmod", ["4750", root.join("file").to_str().unwrap()]).ok();
    rustix::fs::setxattr(root.join("file"), "user.note", b"a\nb", rustix::fs::XattrFlags::empty()).unwrap();
    fs::hard_link(root.join("file"), root.join("again")).unwrap();
    Run::new("mknod", [root.join("null").to_str().unwrap(), "c", "1", "3"]).ok();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(32 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 16 << 20).unwrap();
}

fn check(root: &Path) {
    let info = fs::metadata(root.join("file")).unwrap();
    assert_eq!((info.mode() & 0o7777, info.uid(), info.gid(), info.nlink()), (0o4750, 33, 44, 2));
    assert_eq!(fs::metadata(root.join("again")).unwrap().ino(), info.ino());
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "content");
    let mut note = [0; 8];
    let length = rustix::fs::getxattr(root.join("file"), "user.note", &mut note).unwrap();
    assert_eq!(&note[..length], b"a\nb");
    let null = fs::symlink_metadata(root.join("null")).unwrap();
    assert!(null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3));
    let sparse = fs::metadata(root.join("sparse")).unwrap();
    assert!(sparse.len() == 32 << 20 && sparse.blocks() * 512 < 1 << 20, "holes stay holes");
}

/// Exports `c1`, deletes it and makes it again, once running and once stopped.
fn there_and_back(daemon: &Daemon, run: &dyn Fn(&[&str]) -> Run) {
    let place = tempfile::tempdir().unwrap();
    run(&["init", "busybox", "c1", "--config", "user.note=first"]).ok();
    fill(&rootfs(daemon).join("root"));
    run(&["snapshot", "c1", "s0"]).ok();
    fs::write(rootfs(daemon).join("root/file"), "CONTENT").unwrap();
    run(&["config", "set", "c1", "user.note", "2"]).ok();
    run(&["snapshot", "c1", "s1"]).ok();
    fs::write(rootfs(daemon).join("root/file"), "content").unwrap();
    for running in [true, false] {
        let file = place.path().join(format!("{running}.tar"));
        let file = file.to_str().unwrap();
        if running {
            run(&["start", "c1"]).ok();
        }
        run(&["export", "c1", file, "--compression", if running { "none" } else { "zstd" }]).ok();
        let state = if running { "RUNNING" } else { "STOPPED" };
        assert_eq!(daemon.berth("list --format csv --columns nsS").ok(), format!("c1,{state},2\n"));
        assert_eq!(names(daemon, "backups"), [""; 0], "no copy stays behind");
        assert_eq!(volumes(daemon, "containers-snapshots"), 2, "nor one of the volume");
        run(&["delete", "--force", "c1"]).ok();
        run(&["import", file]).ok();
        check(&rootfs(daemon).join("root"));
    }
    assert_eq!(daemon.instance("c1")["config"]["user.note"], "2");
    assert_eq!(daemon.instance("c1")["config"]["image.os"], "busybox");
    run(&["start", "c1"]).ok();
    let pulled = run(&["file", "pull", "c1/root/file", "-"]).ok();
    assert_eq!(pulled, "content");
    run(&["restore", "c1", "s1"]).ok();
    assert_eq!(run(&["file", "pull", "c1/root/file", "-"]).ok(), "CONTENT");
    run(&["restore", "c1", "s0"]).ok();
    check(&rootfs(daemon).join("root"));
    assert_eq!(daemon.instance("c1")["config"]["user.note"], "first");
    other_ways(daemon, run, place.path());
}

/// By another name, to another pool, without snapshots; and what is in the way.
fn other_ways(daemon: &Daemon, run: &dyn Fn(&[&str]) -> Run, place: &Path) {
    let file = place.join("only.tar.gz");
    let file = file.to_str().unwrap();
    run(&["export", "c1", file, "--instance-only"]).ok();
    run(&["import", file]).fails();
    run(&["storage", "create", "other", "dir"]).ok();
    run(&["import", file, "c2", "--storage", "other"]).ok();
    let made = daemon.instance("c2");
    assert_eq!(made["expanded_devices"]["root"]["pool"], "other", "{made}");
    assert_ne!(made["config"]["volatile.uuid"], daemon.instance("c1")["config"]["volatile.uuid"]);
    assert_ne!(made["config"]["volatile.eth0.hwaddr"], daemon.instance("c1")["config"]["volatile.eth0.hwaddr"]);
    assert_eq!(daemon.berth("list --format csv --columns nsS").ok(), "c1,RUNNING,2\nc2,STOPPED,0\n");
    run(&["import", file, "c3", "--storage", "nowhere"]).fails();
    run(&["delete", "c2"]).ok();
    run(&["storage", "delete", "other"]).ok();
    run(&["profile", "create", "extra"]).ok();
    run(&["profile", "add", "c1", "extra"]).ok();
    run(&["export", "c1", file, "--instance-only"]).ok();
    run(&["profile", "remove", "c1", "extra"]).ok();
    run(&["profile", "delete", "extra"]).ok();
    let said = run(&["import", file, "c3"]).fails();
    assert!(said.contains("extra"), "{said}");
    assert_eq!(daemon.berth("list --format csv --columns n").ok(), "c1\n");
    assert_eq!((names(daemon, "backups").len(), volumes(daemon, ".pending")), (0, 0));
}

#[test]
fn with_lxc() {
    let daemon = Daemon::with_busybox();
    there_and_back(&daemon, &|args| daemon.lxc_args(args.iter().copied()));
    daemon.finish();
}

#[test]
fn with_berth() {
    let daemon = Daemon::with_busybox();
    there_and_back(&daemon, &|args| daemon.berth_args(args.iter().copied()));
    daemon.finish();
}

#[test]
fn of_a_virtual_machine() {
    let daemon = Daemon::start();
    let place = tempfile::tempdir().unwrap();
    daemon.berth("init --empty --vm v1 --device root,size=64MiB").ok();
    let disks = || -> Vec<PathBuf> {
        let volumes = fs::read_dir(daemon.volume_dir("virtual-machines")).unwrap();
        volumes.map(|volume| volume.unwrap().path().join("root.img")).collect()
    };
    let disk = disks().remove(0);
    let file = fs::File::options().write(true).open(&disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 40 << 20).unwrap();
    daemon.berth("snapshot v1").ok();
    let archive = place.path().join("v1.tar.zst");
    let archive = archive.to_str().unwrap();
    daemon.lxc_args(["export", "v1", archive, "--compression", "zstd"]).ok();
    daemon.berth_args(["import", archive, "v2"]).ok();
    let [one, two] = <[PathBuf; 2]>::try_from(disks()).unwrap();
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap(), "the disks are the same");
    assert!(fs::metadata(&one).unwrap().blocks().max(fs::metadata(&two).unwrap().blocks()) * 512 < 1 << 20);
    assert_eq!(
        daemon.berth("list --format csv --columns nStS").ok(),
        "v1,1,VIRTUAL-MACHINE,1\nv2,1,VIRTUAL-MACHINE,1\n"
    );
    daemon.berth("restore v2 snap0").ok();
    daemon.finish();
}

#[test]
fn that_are_kept() {
    let daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1").ok();
    let make = |body: serde_json::Value| {
        daemon.berth_args(["query", "-X", "POST", "--wait", "-d", &body.to_string(), "/1.0/instances/c1/backups"])
    };
    make(serde_json::json!({})).ok();
    make(serde_json::json!({"name": "mine", "instance_only": true, "compression_algorithm": "none"})).ok();
    make(serde_json::json!({})).ok();
    assert!(make(serde_json::json!({"name": "mine"})).fails().contains("already exists"));
    assert!(make(serde_json::json!({"name": "a/b"})).fails().contains("slashes"));
    assert!(make(serde_json::json!({"compression_algorithm": "lz5"})).fails().contains("zstd"));
    let listed = daemon.get("/1.0/instances/c1/backups");
    let urls = ["backup0", "backup1", "mine"].map(|name| format!("/1.0/instances/c1/backups/{name}"));
    assert_eq!(listed, serde_json::json!(urls));
    let mine = daemon.get("/1.0/instances/c1/backups/mine");
    assert_eq!((&mine["name"], &mine["instance_only"]), (&"mine".into(), &true.into()), "{mine}");
    assert_eq!(daemon.get("/1.0/instances/c1?recursion=1")["backups"].as_array().unwrap().len(), 3);
    assert_eq!(daemon.get("/1.0/instances?recursion=2")[0]["backups"].as_array().unwrap().len(), 3);
    let fetched = daemon.http("GET", "/1.0/instances/c1/backups/mine/export", &[], b"");
    assert!(fetched.status == 200 && fetched.body.starts_with("backup/index.yaml"));
    daemon
        .berth_args(["query", "-X", "POST", "--wait", "-d", r#"{"name":"yours"}"#, "/1.0/instances/c1/backups/mine"])
        .ok();
    assert_eq!(daemon.http("GET", "/1.0/instances/c1/backups/mine", &[], b"").status, 404);
    daemon.berth("rename c1 c2").ok();
    daemon.berth_args(["query", "-X", "DELETE", "--wait", "/1.0/instances/c2/backups/yours"]).ok();
    assert_eq!(names(&daemon, "backups").len(), 2);
    // One that expires goes by itself; the others go with their instance.
    let watch = Watch::on(daemon.dir().join("backups"));
    let soon = Run::new("date", ["--utc", "--date", "now + 2 seconds", "+%FT%T.%NZ"]).ok();
    let body = serde_json::json!({"name": "short", "expires_at": soon.trim()}).to_string();
    daemon.berth_args(["query", "-X", "POST", "--wait", "-d", &body, "/1.0/instances/c2/backups"]).ok();
    let file = watch.entry();
    watch.left(file.file_name().unwrap().to_str().unwrap());
    assert_eq!(daemon.http("GET", "/1.0/instances/c2/backups/short", &[], b"").status, 404);
    daemon.berth("delete c2").ok();
    assert_eq!(names(&daemon, "backups"), [""; 0]);
    daemon.finish();
}

#[test]
fn where_they_are_forbidden() {
    let daemon = Daemon::with_busybox();
    daemon.berth("project create p --config restricted=true --config features.images=false").ok();
    daemon.berth("--project p profile device add default root disk path=/ pool=default").ok();
    daemon.berth("--project p init busybox c1").ok();
    for client in [daemon.berth("--project p export c1 -"), daemon.lxc("--project p export c1 /dev/null")] {
        let said = client.fails();
        assert!(said.contains("restricted.backups"), "{said}");
    }
    daemon.berth("project set p restricted.backups=allow").ok();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("c1.tar");
    let file = file.to_str().unwrap();
    daemon.berth_args(["--project", "p", "export", "c1", file]).ok();
    daemon.berth("project set p limits.instances=1").ok();
    let said = daemon.berth_args(["--project", "p", "import", file, "c2"]).fails();
    assert!(said.contains("limits.instances"), "{said}");
    daemon.berth_args(["import", file, "c2"]).ok();
    daemon.finish();
}

#[test]
fn that_are_none_or_break_off() {
    let daemon = Daemon::with_busybox();
    let upload = |body: &[u8]| {
        let answer = daemon.http("POST", "/1.0/instances", &[("Content-Type", "application/octet-stream")], body);
        assert_eq!(answer.status, 400, "{answer:?}");
        answer.error()
    };
    assert!(upload(b"no archive at all").contains("archive"));
    let image = fs::read(berth_tests::busybox_image(tempfile::tempdir().unwrap().path())).unwrap();
    assert!(upload(&image).contains("index.yaml"));
    daemon.berth("init busybox c1").ok();
    let whole = daemon.dir().join("c1.tar");
    daemon.berth_args(["export", "c1", whole.to_str().unwrap(), "--compression", "none"]).ok();
    let whole = fs::read(whole).unwrap();
    let cut = daemon.dir().join("cut.tar");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let said = daemon.berth_args(["import", cut.to_str().unwrap(), "c2"]).fails();
    assert!(said.contains("damaged or cut short"), "{said}");

    let backups = Watch::on(daemon.dir().join("backups"));
    let mut stream = daemon.connect();
    let head = "POST /1.0/instances HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&whole[..1_000_000]).unwrap();
    let file = backups.entry();
    drop(stream);
    backups.left(file.file_name().unwrap().to_str().unwrap());

    // A client that fetches a backup as it is made, and goes away: its instance is free again.
    let mut stream = daemon.connect();
    stream.write_all(b"GET /1.0/instances/c1/export?compression=none HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stream.read_exact(&mut [0; 4096]).unwrap();
    drop(stream);
    daemon.berth("start c1").ok();
    assert_eq!(daemon.berth("list --format csv --columns ns").ok(), "c1,RUNNING\n");
    assert_eq!((volumes(&daemon, "containers"), volumes(&daemon, ".pending")), (1, 0));
    assert_eq!(names(&daemon, "backups"), [""; 0]);
    daemon.finish();
}

#[test]
fn killed_in_the_middle() {
    let mut daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1").ok();
    fs::write(rootfs(&daemon).join("root/big"), vec![1; 48 << 20]).unwrap();
    daemon.berth("snapshot c1 s0").ok();
    let file = daemon.dir().join("c1.tar");
    daemon.berth_args(["export", "c1", file.to_str().unwrap(), "--compression", "none"]).ok();
    let words = format!("import {} c2", file.display());
    for place in [".pending", "containers-snapshots", "containers"] {
        let watch = Watch::on(daemon.volume_dir(place));
        let client = Terminal::start(daemon.berth(&words));
        watch.entry();
        daemon.kill();
        client.end();
        daemon.spawn();
        let names = daemon.berth("list --format csv --columns nsS").ok();
        let done = match names.as_str() {
            "c1,STOPPED,1\n" => 1,
            "c1,STOPPED,1\nc2,STOPPED,1\n" => 2,
            other => panic!("neither done nor undone: {other}"),
        };
        assert_eq!((volumes(&daemon, "containers"), volumes(&daemon, "containers-snapshots")), (done, done));
        assert_eq!(volumes(&daemon, ".pending"), 0);
        daemon.berth("delete c2").any();
    }
    let watch = Watch::on(daemon.dir().join("backups"));
    let post = ["query", "-X", "POST", "--wait", "-d", "{}", "/1.0/instances/c1/backups"];
    let client = Terminal::start(daemon.berth_args(post));
    watch.entry();
    daemon.kill();
    client.end();
    daemon.spawn();
    let listed = daemon.get("/1.0/instances/c1/backups").as_array().unwrap().len();
    assert_eq!(names(&daemon, "backups").len(), listed, "done or undone");
    daemon.berth_args(post).ok();
    daemon.finish();
}
