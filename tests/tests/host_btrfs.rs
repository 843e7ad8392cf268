//! Storage pools on btrfs, which the kernel of this machine must have.

use std::fs;
use std::os::unix::fs::MetadataExt;

use berth_tests::{Daemon, Run, Terminal, Watch};

/// Inodes of the volumes of containers in the pool `p`; that of a subvolume's root is 256.
fn volumes(daemon: &Daemon) -> Vec<u64> {
    let inside = fs::read_dir(daemon.dir().join("storage-pools/p/containers")).unwrap();
    inside.map(|volume| volume.unwrap().metadata().unwrap().ino()).collect()
}

fn shell(daemon: &Daemon, instance: &str, script: &str) -> Run {
    daemon.lxc_args(["exec", instance, "--", "sh", "-c", script])
}

/// Fails because the limit of its root disk is reached.
#[track_caller]
fn refused(daemon: &Daemon, instance: &str, script: &str) {
    let said = shell(daemon, instance, script).any();
    assert!(said.status != 0 && said.stderr.contains("uota exceeded"), "{said:?}");
}

fn write(name: &str, mib: u32) -> String {
    format!("dd if=/dev/zero of={name} bs=1048576 count={mib}")
}

/// Makes a subvolume as the root of a container, who is nobody outside.
fn subvolume(daemon: &Daemon, instance: &str, path: &str) {
    let pid = daemon.instance_pid(instance).to_string();
    let place = format!("/proc/{pid}/root{path}");
    let enter = ["--user", "--target", &pid, "--setuid", "0", "--setgid", "0"];
    Run::new("nsenter", enter.into_iter().chain(["btrfs", "subvolume", "create", &place])).ok();
}

#[test]
fn instances_in_a_pool_of_its_own_file() {
    let mut daemon = Daemon::with_busybox();
    let drivers = daemon.get("/1.0")["environment"]["storage_supported_drivers"].to_string();
    assert!(drivers.contains("btrfs"), "{drivers}");
    daemon.lxc("storage create p btrfs size=1GiB").ok();
    let shown = daemon.lxc("storage show p").ok();
    assert!(shown.contains("driver: btrfs") && shown.contains("/disks/p.img") && shown.contains("1GiB"), "{shown}");
    assert!(daemon.lxc("storage list --format csv").ok().contains("p,btrfs"));
    assert_eq!(daemon.get("/1.0/storage-pools/p/resources")["space"]["total"], 1 << 30);

    daemon.lxc("launch busybox c1 --storage p --device root,size=32MiB").ok();
    assert_eq!(volumes(&daemon), [256], "the volume is a subvolume");
    shell(&daemon, "c1", "echo old > /root/file && chown 1000:1000 /root/file").ok();
    subvolume(&daemon, "c1", "/root/nested");
    shell(&daemon, "c1", "echo old > /root/nested/file").ok();

    // The size of the root disk holds for all that is in it, and can be changed while it runs.
    refused(&daemon, "c1", &write("/root/big", 40));
    refused(&daemon, "c1", &write("/root/nested/big", 40));
    shell(&daemon, "c1", "rm /root/big /root/nested/big; sync").ok();
    daemon.lxc("config device set c1 root size=96MiB").ok();
    shell(&daemon, "c1", &write("/root/big", 40)).ok();
    let used = daemon.get("/1.0/instances/c1/state")["disk"]["root"]["usage"].as_u64().unwrap();
    assert!(used < 96 << 20, "{used}");

    daemon.lxc("snapshot c1 s0").ok();
    shell(&daemon, "c1", "echo new > /root/file; echo new > /root/nested/file").ok();
    daemon.lxc("copy c1 c2").ok();
    daemon.lxc("restore c1 s0").ok();
    let content = "cat /root/file /root/nested/file; ls -n /root/file | grep -c ' 1000 '";
    assert_eq!(shell(&daemon, "c1", content).ok(), "old\nold\n1\n");
    daemon.lxc("start c2").ok();
    assert_eq!(shell(&daemon, "c2", content).ok(), "new\nnew\n1\n");
    refused(&daemon, "c2", &write("/root/nested/more", 120));

    // To a pool of another driver and back, with the snapshot.
    daemon.lxc("stop --force c2").ok();
    daemon.lxc("snapshot c2 s1").ok();
    daemon.lxc("move c2 --storage default").ok();
    daemon.lxc("start c2").ok();
    assert_eq!(shell(&daemon, "c2", content).ok(), "new\nnew\n1\n");
    daemon.lxc("stop --force c2").ok();
    daemon.lxc("move c2 --storage p").ok();
    assert_eq!(volumes(&daemon), [256, 256]);
    assert!(daemon.lxc("info c2").ok().contains("s1"));

    // The daemon may end, or be killed, and finds its pool again.
    daemon.kill();
    daemon.spawn();
    assert_eq!(shell(&daemon, "c1", "cat /root/nested/file").ok(), "old\n");
    daemon.lxc("stop --force c1").ok();
    daemon.stop();
    Run::new("umount", [daemon.dir().join("storage-pools/p")]).ok();
    daemon.spawn();
    daemon.lxc("start c1").ok();
    assert_eq!(shell(&daemon, "c1", "cat /root/nested/file").ok(), "old\n");

    daemon.lxc("storage set p size=1280MiB").ok();
    assert_eq!(daemon.get("/1.0/storage-pools/p/resources")["space"]["total"], 1280 << 20);
    let said = daemon.lxc("storage delete p").any();
    assert!(said.status != 0 && said.stderr.contains("in use"), "{said:?}");
    for instance in ["c1", "c2"] {
        daemon.lxc(&format!("delete --force {instance}")).ok();
    }
    daemon.lxc("storage delete p").ok();
    daemon.finish();
}

#[test]
fn a_pool_in_a_directory() {
    let daemon = Daemon::with_busybox();
    // Somebody's btrfs.
    daemon.berth("storage create host btrfs size=256MiB").ok();
    let place = daemon.dir().join("storage-pools/host/place");
    daemon.lxc(&format!("storage create p btrfs source={}", place.display())).ok();
    assert_eq!(fs::metadata(&place).unwrap().ino(), 256, "a subvolume was made");
    daemon.lxc("launch busybox c1 --storage p").ok();
    shell(&daemon, "c1", "echo old > /root/file").ok();
    daemon.lxc("snapshot c1 s0").ok();
    shell(&daemon, "c1", "echo new > /root/file").ok();
    daemon.lxc("restore c1 s0").ok();
    assert_eq!(shell(&daemon, "c1", "cat /root/file").ok(), "old\n");
    daemon.lxc("delete --force c1").ok();
    daemon.lxc("storage delete p").ok();
    assert!(!place.exists());
    let said = daemon.lxc("storage create q btrfs source=/proc/nothing").any();
    assert!(said.status != 0 && said.stderr.contains("not on a btrfs"), "{said:?}");
    daemon.lxc("storage delete host").ok();
    daemon.finish();
}

#[test]
fn killed_while_a_pool_is_made_and_removed() {
    let mut daemon = Daemon::start();
    let disks = daemon.dir().join("disks");
    fs::create_dir(&disks).unwrap();
    let nothing = |daemon: &Daemon| {
        assert_eq!(daemon.lxc("storage list --format csv").ok().lines().count(), 1, "only the default pool");
        assert_eq!(fs::read_dir(&disks).unwrap().count(), 0);
        assert!(!daemon.dir().join("storage-pools/p").exists());
    };
    let watch = Watch::on(&disks);
    let client = Terminal::start(daemon.lxc("storage create p btrfs size=256MiB"));
    watch.entry();
    daemon.kill();
    client.end();
    daemon.spawn();
    nothing(&daemon);
    daemon.lxc("storage create p btrfs size=256MiB").ok();
    let watch = Watch::on(&disks);
    let client = Terminal::start(daemon.lxc("storage delete p"));
    watch.left("p.img");
    daemon.kill();
    client.end();
    daemon.spawn();
    nothing(&daemon);
    daemon.finish();
}
