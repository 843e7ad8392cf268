//! Bad input and faults: each error names the object, the reason and the next step, and nothing is left behind.

use berth_tests::{Daemon, Run, Setup, Watch, programs};

#[test]
fn bad_requests_are_refused_with_a_reason() {
    let daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1").ok();
    for (words, expected) in [
        ("launch no-such-image c2", vec!["no image `no-such-image`", "image list"]),
        ("init busybox c1", vec!["c1", "already exists"]),
        ("init busybox bad_name", vec!["bad_name", "alphanumeric"]),
        ("init busybox c2 -c limits.memry=1GiB", vec!["limits.memry", "limits.memory"]),
        ("init busybox c2 -c limits.memory=lots", vec!["limits.memory", "lots"]),
        ("init busybox c2 -c security.privileged=true", vec!["security.privileged", "not supported"]),
        ("init busybox c2 -p nosuch", vec!["nosuch", "not found"]),
        ("init busybox c2 -s nosuch", vec!["nosuch", "not found"]),
        ("init busybox c2 -n nosuch", vec!["nosuch", "not found"]),
        ("start nosuch", vec!["nosuch", "not found"]),
        ("exec c1 -- true", vec!["c1", "not running"]),
        ("stop c1", vec!["c1", "already stopped"]),
        ("profile delete default", vec!["default"]),
        ("config set c1 nonsense=1", vec!["nonsense"]),
        ("config device add c1 gpu0 gpu", vec!["gpu", "not supported"]),
        ("network delete nosuch", vec!["nosuch", "not found"]),
        ("image delete nosuch", vec!["no image `nosuch`"]),
    ] {
        let said = daemon.berth(words).fails();
        for part in expected {
            assert!(said.contains(part), "berth {words}: \"{part}\" is missing in: {said}");
        }
    }
    assert_eq!(daemon.berth("list --format csv --columns n").ok(), "c1\n");
    daemon.finish();
}

#[test]
fn a_virtual_machine_of_an_image_without_a_kernel_needs_one_beside_the_programs() {
    let beside = tempfile::Builder::new().prefix("programs").tempdir_in(programs()).unwrap();
    for name in ["berthd", "berth-agent", "berth-container", "berth-image", "berth-vmm"] {
        std::fs::hard_link(programs().join(name), beside.path().join(name)).unwrap();
    }
    let daemon = Setup::default().programs(beside.path()).start();
    daemon.import_busybox();
    let said = daemon.berth("init busybox v1 --vm").fails();
    for part in ["holds no kernel", "cargo xtask kernel", "vmlinux", "as a container"] {
        assert!(said.contains(part), "{said}");
    }
    daemon.finish();
}

#[test]
fn malformed_bodies_are_refused_and_name_the_field() {
    let daemon = Daemon::start();
    let post = |body: &str| daemon.berth_args(["query", "-X", "POST", "-d", body, "/1.0/instances"]).fails();
    assert!(post("{").contains("JSON"));
    assert!(post(r#"{"name": 7, "source": {"type": "none"}}"#).contains("name"));
    assert!(post(r#"{"name": "c1", "source": {"type": "telepathy"}}"#).contains("telepathy"));
    daemon.finish();
}

#[test]
fn a_second_daemon_on_the_same_directory_is_refused() {
    let daemon = Daemon::start();
    let said =
        Run::new(programs().join("berthd"), ["serve".as_ref(), "--dir".as_ref(), daemon.dir().as_os_str()]).fails();
    assert!(said.contains(daemon.dir().to_str().unwrap()), "{said}");
    assert!(said.contains(&daemon.pid().to_string()), "{said}");
    daemon.berth("list").ok();
    daemon.finish();
}

#[test]
fn a_killed_monitor_leaves_nothing_and_is_reported() {
    let daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    let run_dir = Watch::on(daemon.run_dir("c1"));
    rustix::process::kill_process(daemon.supervisor("c1"), rustix::process::Signal::KILL).unwrap();
    run_dir.gone();
    // The owner of the instance does one thing after the other: with this done, it has dealt with the end.
    daemon.berth("config set c1 user.sync=1").ok();
    assert_eq!(daemon.berth("list --format csv --columns ns").ok(), "c1,STOPPED\n");
    assert!(daemon.berth("info c1").ok().contains("killed"));
    daemon.berth("start c1").ok();
    daemon.finish();
}
