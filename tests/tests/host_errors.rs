//! Bad input and faults: each error names the object, the reason and the next step, and nothing is left behind.

use berth_tests::{Daemon, Run, busybox_image};

fn with_image() -> Daemon {
    let daemon = Daemon::start();
    let image = busybox_image(daemon.dir());
    daemon.berth_args(["image", "import", image.to_str().unwrap(), "--alias", "busybox"]).ok();
    daemon
}

#[test]
fn bad_requests_are_refused_with_a_reason() {
    let daemon = with_image();
    daemon.berth("init busybox c1").ok();
    for (words, expected) in [
        ("launch no-such-image c2", vec!["no-such-image", "not found"]),
        ("init busybox c1", vec!["c1", "already exists"]),
        ("init busybox bad_name", vec!["bad_name", "alphanumeric"]),
        ("init busybox c2 -c limits.memry=1GiB", vec!["limits.memry", "limits.memory"]),
        ("init busybox c2 -c limits.memory=lots", vec!["limits.memory", "lots"]),
        ("init busybox c2 -c security.privileged=true", vec!["security.privileged", "not supported"]),
        ("init busybox c2 -p nosuch", vec!["nosuch", "not found"]),
        ("init busybox c2 -s nosuch", vec!["nosuch", "not found"]),
        ("init busybox c2 -n nosuch", vec!["nosuch", "not found"]),
        ("init busybox c2 --vm", vec!["virtual-machine"]),
        ("start nosuch", vec!["nosuch", "not found"]),
        ("exec c1 -- true", vec!["c1", "not running"]),
        ("stop c1", vec!["c1", "already stopped"]),
        ("profile delete default", vec!["default"]),
        ("config set c1 nonsense=1", vec!["nonsense"]),
        ("config device add c1 gpu0 gpu", vec!["gpu", "not supported"]),
        ("network delete nosuch", vec!["nosuch", "not found"]),
        ("image delete nosuch", vec!["nosuch", "not found"]),
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
    let berthd = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("berthd");
    let said = Run::new(berthd, ["serve".as_ref(), "--dir".as_ref(), daemon.dir().as_os_str()]).fails();
    assert!(said.contains(daemon.dir().to_str().unwrap()), "{said}");
    assert!(said.contains(&daemon.pid().to_string()), "{said}");
    daemon.berth("list").ok();
    daemon.finish();
}

#[test]
fn a_killed_monitor_leaves_nothing_and_is_reported() {
    let daemon = with_image();
    daemon.berth("launch busybox c1").ok();
    let run = std::fs::read_dir(daemon.dir().join("run")).unwrap().flatten().next().unwrap().path();
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run.join("supervisor.json")).unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(record["pid"].as_i64().unwrap() as i32).unwrap();
    // Whoever asks for events sees the end; no need to look again and again.
    let wait = daemon.berth("monitor --type lifecycle --until instance-shutdown");
    let waiter = std::thread::spawn(move || wait.any());
    while !daemon.log().contains("/1.0/events") && !waiter.is_finished() {
        std::thread::yield_now();
    }
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    waiter.join().unwrap();
    assert_eq!(daemon.berth("list --format csv --columns ns").ok(), "c1,STOPPED\n");
    assert!(daemon.berth("info c1").ok().contains("killed"));
    daemon.berth("start c1").ok();
    daemon.finish();
}
