//! Snapshots by themselves, of virtual machines, and with faults in the middle.

use std::fs;

use berth_tests::{Daemon, Run, Setup, SmallDisk, Terminal, Watch};

/// Names of an instance's snapshots, the oldest first.
fn snapshots(daemon: &Daemon, instance: &str) -> Vec<String> {
    let list = daemon.get(&format!("/1.0/instances/{instance}/snapshots?recursion=1"));
    list.as_array().unwrap().iter().map(|snapshot| snapshot["name"].as_str().unwrap().to_owned()).collect()
}

/// Number of volumes of a kind in the default pool.
fn volumes(daemon: &Daemon, kind: &str) -> usize {
    fs::read_dir(daemon.volume_dir(kind)).unwrap().count()
}

/// Returns when the owner of `c1` has done what it was at.
fn settled(daemon: &Daemon) {
    daemon.berth("config set c1 user.sync=1").ok();
}

#[test]
fn by_schedule_and_until_they_expire() {
    let daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1 --config snapshots.schedule=@daily,@startup --config snapshots.pattern=auto%d").ok();
    let watch = Watch::on(daemon.volume_dir("containers-snapshots"));
    daemon.berth("start c1").ok();
    let volume = watch.entry();
    settled(&daemon);
    assert_eq!(snapshots(&daemon, "c1"), ["auto0"]);
    let soon = Run::new("date", ["--utc", "--date", "now + 1 second", "+%FT%T.%NZ"]).ok();
    let change = serde_json::json!({"expires_at": soon.trim()}).to_string();
    daemon.berth_args(["query", "-X", "PATCH", "--wait", "-d", &change, "/1.0/instances/c1/snapshots/auto0"]).ok();
    watch.left(volume.file_name().unwrap().to_str().unwrap());
    settled(&daemon);
    assert!(snapshots(&daemon, "c1").is_empty());
    daemon.finish();
}

#[test]
fn of_virtual_machines() {
    let daemon = Daemon::start();
    daemon.berth("init --empty --vm v1 --device root,size=64MiB").ok();
    let disk = |name: &str| {
        let uuid = daemon.instance(name)["config"]["volatile.uuid"].as_str().unwrap().replace('-', "");
        daemon.volume_dir("virtual-machines").join(uuid).join("root.img")
    };
    fs::write(disk("v1"), vec![1; 1 << 20]).unwrap();
    fs::File::options().write(true).open(disk("v1")).unwrap().set_len(64 << 20).unwrap();
    daemon.berth("snapshot v1").ok();
    let kept = fs::read_dir(daemon.volume_dir("virtual-machines-snapshots")).unwrap().next().unwrap().unwrap().path();
    fs::write(disk("v1"), "gone").unwrap();
    daemon.berth("copy v1/snap0 v2").ok();
    for copy in [disk("v2"), kept.join("root.img")] {
        let content = fs::read(&copy).unwrap();
        assert!(content.len() == 64 << 20 && content[..1 << 20].iter().all(|b| *b == 1) && content[1 << 20] == 0);
        use std::os::unix::fs::MetadataExt;
        assert!(fs::metadata(&copy).unwrap().blocks() * 512 < 2 << 20, "holes stay holes");
    }
    assert_ne!(
        daemon.instance("v1")["config"]["volatile.vsock_id"],
        daemon.instance("v2")["config"]["volatile.vsock_id"]
    );
    daemon.berth("restore v1 snap0").ok();
    daemon.berth("publish v1 --alias disk os=none").ok();
    let image = daemon.get("/1.0/images?recursion=1")[0].clone();
    assert_eq!((&image["type"], &image["properties"]["os"]), (&"virtual-machine".into(), &"none".into()), "{image}");
    daemon.berth("init disk v3 --vm --device root,size=64MiB").ok();
    assert!(fs::read(disk("v3")).unwrap() == fs::read(disk("v2")).unwrap(), "the disk is the same");
    daemon.berth("delete v3").ok();
    let volumes: Vec<_> = fs::read_dir(daemon.volume_dir("virtual-machines")).unwrap().collect();
    assert_eq!(volumes.len(), 2, "{volumes:?}");
    daemon.finish();
}

/// A daemon with the running container `c1`, which has enough in it to be killed in the middle of a copy.
fn with_running(daemon: &Daemon) {
    daemon.berth("init busybox c1").ok();
    daemon.berth("start c1").ok();
    daemon.berth_args(["exec", "c1", "--", "dd", "if=/dev/zero", "of=/root/big", "bs=1048576", "count=48"]).ok();
}

/// Runs a command and kills the daemon when something appears in `place`.
fn killed(daemon: &mut Daemon, words: &str, place: &str) {
    let watch = Watch::on(daemon.volume_dir(place));
    let client = Terminal::start(daemon.berth(words));
    watch.entry();
    daemon.kill();
    client.end();
    daemon.spawn();
    assert_eq!(volumes(daemon, ".pending"), 0, "{words}");
}

#[test]
fn killed_in_the_middle_of_a_snapshot() {
    let mut daemon = Daemon::with_busybox();
    with_running(&daemon);
    for place in [".pending", "containers-snapshots"] {
        killed(&mut daemon, "snapshot c1", place);
        settled(&daemon);
        assert_eq!(daemon.berth("list --format csv --columns s").ok(), "RUNNING\n", "it is not left paused");
        let done = snapshots(&daemon, "c1");
        assert_eq!(volumes(&daemon, "containers-snapshots"), done.len(), "done or undone: {done:?}");
        for name in done {
            daemon.berth(&format!("restore c1 {name}")).ok();
            daemon.berth(&format!("delete c1/{name}")).ok();
        }
    }
    daemon.berth("snapshot c1").ok();
    daemon.finish();
}

#[test]
fn killed_in_the_middle_of_a_restore() {
    let mut daemon = Daemon::with_busybox();
    with_running(&daemon);
    daemon.berth_args(["exec", "c1", "--", "sh", "-c", "echo old > /root/file"]).ok();
    daemon.berth("snapshot c1 s0").ok();
    daemon.berth_args(["exec", "c1", "--", "sh", "-c", "echo new > /root/file"]).ok();
    daemon.berth("config set c1 user.age=new").ok();
    for place in [".pending", "containers"] {
        killed(&mut daemon, "restore c1 s0", place);
        settled(&daemon);
        assert_eq!((volumes(&daemon, "containers"), snapshots(&daemon, "c1")), (1, vec!["s0".to_owned()]));
        let content = daemon.berth("file pull c1/root/file -").ok();
        let age = daemon.berth("config get c1 user.age").ok();
        assert!(matches!((content.trim(), age.trim()), ("old", "") | ("new", "new")), "half restored: {content} {age}");
    }
    daemon.berth("restore c1 s0").ok();
    assert_eq!(daemon.berth("file pull c1/root/file -").ok(), "old\n");
    daemon.finish();
}

#[test]
fn killed_in_the_middle_of_a_copy() {
    let mut daemon = Daemon::with_busybox();
    with_running(&daemon);
    daemon.berth("snapshot c1 s0").ok();
    for place in [".pending", "containers-snapshots", "containers"] {
        killed(&mut daemon, "copy c1 c2", place);
        settled(&daemon);
        let names = daemon.berth("list --format csv --columns nsS").ok();
        let done = match names.as_str() {
            "c1,RUNNING,1\n" => 1,
            "c1,RUNNING,1\nc2,STOPPED,1\n" => 2,
            other => panic!("neither done nor undone: {other}"),
        };
        assert_eq!((volumes(&daemon, "containers"), volumes(&daemon, "containers-snapshots")), (done, done));
        daemon.berth("delete c2").any();
    }
    daemon.berth("copy c1 c2").ok();
    daemon.finish();
}

#[test]
fn on_a_full_disk() {
    let disk = SmallDisk::new("160M");
    let daemon = Setup::default().dir(disk.path().join("data")).start();
    daemon.import_busybox();
    with_running(&daemon);
    let filler = disk.fill(8 << 20);
    let said = daemon.berth("snapshot c1").fails();
    assert!(said.contains("full") && said.contains("free some space"), "{said}");
    let said = daemon.berth("copy c1 c2").fails();
    assert!(said.contains("full"), "{said}");
    assert_eq!(daemon.berth("list --format csv --columns nsS").ok(), "c1,RUNNING,0\n");
    fs::remove_file(filler).unwrap();
    assert_eq!((volumes(&daemon, "containers"), volumes(&daemon, "containers-snapshots")), (1, 0));
    daemon.berth("snapshot c1").ok();
    daemon.finish();
}
