//! A daemon that is killed at the end of every step of every operation, and again while it takes up what there is then.
//! Afterwards the operation is done or undone, nothing is half, nothing is left over, and it can be done again.

use std::collections::BTreeSet;

use berth_tests::{Daemon, Run, wait_for_end};

/// An operation.
struct Case<'a> {
    /// What it is called here.
    what: &'a str,
    /// Does it.
    act: &'a dyn Fn(&Daemon) -> Run,
    /// Brings back what was before.
    undo: &'a dyn Fn(&Daemon),
    /// Some of the steps that it takes, so that none is lost unseen.
    steps: &'a [&'a str],
    /// The instance whose run it ends.
    ends: Option<&'a str>,
    /// It is several operations one after the other for the server too: it may be done in part, and is then gone on with.
    parts: bool,
}

/// One that ends no run and is done or not.
const PLAIN: Case<'static> =
    Case { what: "", act: &|daemon| daemon.berth("list"), undo: &|_| {}, steps: &[], ends: None, parts: false };

/// How many steps a daemon takes at each start at least.
const STEPS_OF_A_START: u64 = 3;

impl Case<'_> {
    /// Goes through all steps. There must be nothing under way before.
    fn try_all_steps(&self, daemon: &mut Daemon) {
        let before = daemon.contents();
        (self.act)(daemon).ok();
        daemon.check_whole();
        let after = daemon.contents();
        (self.undo)(daemon);
        assert_eq!(daemon.contents(), before, "{}: its undoing", self.what);
        let mut steps = Vec::new();
        for count in 1.. {
            let supervisor = self.ends.map(|name| daemon.supervisor(name));
            daemon.die_after(count);
            let said = (self.act)(daemon).any();
            let Some(step) = daemon.death() else {
                assert_eq!(said.status, 0, "{}: {said:?}", self.what);
                assert_eq!(daemon.contents(), after, "{}: not cut off", self.what);
                (self.undo)(daemon);
                break;
            };
            let context = format!("{}, step {count}: {step}", self.what);
            eprintln!("{context}");
            if let (Some(supervisor), "supervisor asked") = (supervisor, &*step) {
                assert!(wait_for_end(supervisor), "{context}");
            }
            // At any of the steps of its next start too, should it take so many.
            daemon.die_after(STEPS_OF_A_START + 1 + count % 5);
            if let Some(step) = daemon.spawn_or_die() {
                eprintln!("    and then: {step}");
                assert_eq!(daemon.spawn_or_die(), None);
            }
            steps.push(step);
            daemon.await_helpers();
            daemon.check_whole();
            let found = daemon.contents();
            assert!(
                found == before || found == after || self.parts,
                "{context}\nbefore: {before:#}\nafter: {after:#}\nfound: {found:#}\n{}",
                daemon.log()
            );
            if found != after {
                (self.act)(daemon).ok();
                assert_eq!(daemon.contents(), after, "{context}: done again");
            }
            (self.undo)(daemon);
            assert_eq!(daemon.contents(), before, "{context}: its undoing");
        }
        let taken: BTreeSet<&str> = steps.iter().map(String::as_str).collect();
        let missing: Vec<_> = self.steps.iter().filter(|step| !taken.contains(**step)).collect();
        assert!(missing.is_empty(), "{} does not take the steps {missing:?} but {taken:?}", self.what);
        daemon.check_whole();
    }
}

#[test]
fn creating_copying_and_deleting() {
    let mut daemon = Daemon::with_busybox();
    let delete = |daemon: &Daemon| drop(daemon.berth("delete --force c1").ok());
    let create = |daemon: &Daemon| daemon.berth("init busybox c1 -c user.a=1").ok();
    Case {
        what: "create",
        act: &|daemon| daemon.berth("init busybox c1"),
        undo: &delete,
        steps: &["volume begun", "content made", "volume in its place"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    Case { what: "create empty", act: &|daemon| daemon.berth("init --empty c1"), undo: &delete, ..PLAIN }
        .try_all_steps(&mut daemon);
    create(&daemon);
    Case {
        what: "delete",
        act: &|daemon| daemon.berth("delete c1"),
        undo: &|daemon| drop(create(daemon)),
        steps: &["volume removed"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    daemon.mark("c1", "source");
    daemon.berth("snapshot c1 s0").ok();
    Case {
        what: "copy",
        act: &|daemon| daemon.berth("copy c1 c2"),
        undo: &|daemon| drop(daemon.berth("delete c2").ok()),
        steps: &["volume duplicated", "volume in its place"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    Case {
        what: "rename",
        act: &|daemon| daemon.berth("rename c1 c3"),
        undo: &|daemon| {
            daemon.berth("delete c3").ok();
            create(daemon);
            daemon.mark("c1", "source");
            daemon.berth("snapshot c1 s0").ok();
        },
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    daemon.finish();
}

#[test]
fn starting_and_stopping() {
    let mut daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1").ok();
    daemon.mark("c1", "own");
    let stop = |daemon: &Daemon| drop(daemon.berth("stop --force c1").ok());
    let start = |daemon: &Daemon| drop(daemon.berth("start c1").ok());
    // So that it has what it gets at its first start only.
    start(&daemon);
    stop(&daemon);
    Case {
        what: "start",
        act: &|daemon| daemon.berth("start c1"),
        undo: &stop,
        steps: &[
            "run directory made",
            "supervisor started",
            "instance made",
            "network card announced",
            "network card made",
            "instance runs",
        ],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    start(&daemon);
    Case {
        what: "stop by force",
        act: &|daemon| daemon.berth("stop --force c1"),
        undo: &start,
        steps: &["supervisor asked", "what the supervisor left removed", "network card forgotten", "directory removed"],
        ends: Some("c1"),
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    Case { what: "restart", act: &|daemon| daemon.berth("restart --force c1"), ends: Some("c1"), ..PLAIN }
        .try_all_steps(&mut daemon);
    // Its own wish to be left alone when the daemon starts is not meant for this.
    daemon.berth("config set c1 boot.autostart=false").ok();
    Case {
        what: "restart of one that is not started by itself",
        act: &|daemon| daemon.berth("restart --force c1"),
        ends: Some("c1"),
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    daemon.finish();
}

#[test]
fn snapshots() {
    let mut daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1").ok();
    daemon.mark("c1", "own");
    Case {
        what: "snapshot",
        act: &|daemon| daemon.berth("snapshot c1 s1"),
        undo: &|daemon| drop(daemon.berth("delete c1/s1").ok()),
        steps: &["volume duplicated", "volume in its place"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    daemon.berth("snapshot c1 s1").ok();
    Case {
        what: "rename a snapshot",
        act: &|daemon| daemon.berth("rename c1/s1 c1/s2"),
        undo: &|daemon| drop(daemon.berth("rename c1/s2 c1/s1").ok()),
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    Case {
        what: "delete a snapshot",
        act: &|daemon| daemon.berth("delete c1/s1"),
        undo: &|daemon| drop(daemon.berth("snapshot c1 s1").ok()),
        steps: &["volume removed"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    let other = |daemon: &Daemon| {
        daemon.berth("stop --force c1").any();
        daemon.berth("restore c1 other").ok();
    };
    daemon.mark("c1", "other");
    daemon.berth("config set c1 user.other=1").ok();
    daemon.berth("snapshot c1 other").ok();
    Case {
        what: "restore",
        act: &|daemon| daemon.berth("restore c1 s1"),
        undo: &other,
        steps: &["volume in its place", "volume removed"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    let other_running = |daemon: &Daemon| {
        other(daemon);
        daemon.berth("start c1").ok();
    };
    other_running(&daemon);
    Case {
        what: "restore of one that runs",
        act: &|daemon| daemon.berth("restore c1 s1"),
        undo: &other_running,
        ends: Some("c1"),
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    Case {
        what: "snapshot of one that runs",
        act: &|daemon| daemon.berth("snapshot c1 s3"),
        undo: &|daemon| drop(daemon.berth("delete c1/s3").ok()),
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    daemon.berth("stop --force c1").ok();
    daemon.berth("copy c1 c2").ok();
    let older = |daemon: &Daemon| {
        daemon.berth("delete c2").ok();
        daemon.berth("copy c1/s1 c2").ok();
    };
    older(&daemon);
    Case { what: "refresh", act: &|daemon| daemon.berth("copy --refresh c1 c2"), undo: &older, parts: true, ..PLAIN }
        .try_all_steps(&mut daemon);
    Case {
        what: "refresh of the instance only",
        act: &|daemon| daemon.berth("copy --refresh --instance-only c1 c2"),
        undo: &older,
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    daemon.finish();
}

#[test]
fn rebuilding_and_moving() {
    let mut daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1").ok();
    daemon.berth("start c1").ok();
    daemon.berth("stop --force c1").ok();
    daemon.mark("c1", "own");
    daemon.berth("snapshot c1 s1").ok();
    let back = |daemon: &Daemon| drop(daemon.berth("restore c1 s1").ok());
    back(&daemon);
    Case {
        what: "rebuild",
        act: &|daemon| daemon.berth("rebuild busybox c1"),
        undo: &back,
        steps: &["content made"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    Case { what: "rebuild as an empty one", act: &|daemon| daemon.berth("rebuild --empty c1"), undo: &back, ..PLAIN }
        .try_all_steps(&mut daemon);
    Case {
        what: "make a pool",
        act: &|daemon| daemon.berth("storage create other dir"),
        undo: &|daemon| drop(daemon.berth("storage delete other").ok()),
        steps: &["pool made"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    daemon.berth("storage create other dir").ok();
    Case {
        what: "delete a pool",
        act: &|daemon| daemon.berth("storage delete other"),
        undo: &|daemon| drop(daemon.berth("storage create other dir").ok()),
        steps: &["pool removed"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    // So that it has the device that a move gives it.
    for pool in ["other", "default"] {
        daemon.berth(&format!("move c1 --storage {pool}")).ok();
    }
    Case {
        what: "move to another pool",
        act: &|daemon| daemon.berth("move c1 --storage other"),
        undo: &|daemon| drop(daemon.berth("move c1 --storage default").ok()),
        steps: &["volume filled", "volume in its place"],
        parts: true,
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    Case {
        what: "copy to another pool",
        act: &|daemon| daemon.berth("copy c1 c2 --storage other"),
        undo: &|daemon| drop(daemon.berth("delete c2").ok()),
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    daemon.berth("storage delete other").ok();
    daemon.finish();
}

#[test]
fn backups_and_images() {
    let mut daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1").ok();
    daemon.mark("c1", "own");
    daemon.berth("snapshot c1 s1").ok();
    let make = |daemon: &Daemon| {
        let data = r#"{"name":"b1","compression_algorithm":"none"}"#;
        daemon.berth_args(["query", "-X", "POST", "-d", data, "--wait", "/1.0/instances/c1/backups"])
    };
    let remove =
        |daemon: &Daemon| daemon.berth_args(["query", "-X", "DELETE", "--wait", "/1.0/instances/c1/backups/b1"]);
    Case {
        what: "make a backup",
        act: &make,
        undo: &|daemon| drop(remove(daemon).ok()),
        steps: &["backup packed", "file of a backup whole"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    make(&daemon).ok();
    Case {
        what: "delete a backup",
        act: &remove,
        undo: &|daemon| drop(make(daemon).ok()),
        steps: &["file of a backup removed"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("c1.tar");
    let file = file.to_str().unwrap();
    let export = |daemon: &Daemon| daemon.berth_args(["export", "c1", file, "--compression", "none"]);
    Case { what: "export", act: &export, ..PLAIN }.try_all_steps(&mut daemon);
    export(&daemon).ok();
    Case {
        what: "import",
        act: &|daemon| daemon.berth_args(["import", file, "c2"]),
        undo: &|daemon| drop(daemon.berth("delete c2").ok()),
        steps: &["file of a backup begun", "backup unpacked", "volume in its place"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    Case {
        what: "publish",
        act: &|daemon| daemon.berth("publish c1 --alias made --compression none"),
        undo: &|daemon| drop(daemon.berth("image delete made").ok()),
        steps: &["files of an image in their place"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    Case {
        what: "delete an image",
        act: &|daemon| daemon.berth("image delete busybox"),
        undo: &|daemon| daemon.import_busybox(),
        steps: &["files of an image out of their place"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    daemon.finish();
}

#[test]
fn networks_and_profiles() {
    let mut daemon = Daemon::with_busybox();
    let config = "ipv4.address=10.219.77.1/24 ipv6.address=none";
    let create = |daemon: &Daemon| daemon.berth(&format!("network create fpbr0 {config}"));
    Case {
        what: "make a network",
        act: &create,
        undo: &|daemon| drop(daemon.berth("network delete fpbr0").ok()),
        steps: &["bridge laid", "firewall set", "dnsmasq serves"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    create(&daemon).ok();
    Case {
        what: "delete a network",
        act: &|daemon| daemon.berth("network delete fpbr0"),
        undo: &|daemon| drop(create(daemon).ok()),
        steps: &["dnsmasq stopped", "firewall removed", "bridge removed", "directory of a network removed"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    daemon.berth("launch busybox c1").ok();
    Case {
        what: "change a profile",
        act: &|daemon| daemon.berth("profile set default limits.memory=64MiB"),
        undo: &|daemon| drop(daemon.berth("profile unset default limits.memory").ok()),
        steps: &["supervisor asked"],
        ..PLAIN
    }
    .try_all_steps(&mut daemon);
    // Of interfaces that come and go with a profile, none is left.
    let network = daemon.networks().remove(0);
    daemon.berth(&format!("profile device add default eth1 nic network={network} name=eth1")).ok();
    daemon.check_whole();
    daemon.berth("profile device remove default eth1").ok();
    daemon.check_whole();
    daemon.finish();
}
