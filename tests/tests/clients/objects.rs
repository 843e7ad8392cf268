//! Configuration, profiles, events and raw requests.

use std::os::unix::fs::PermissionsExt;

use berth_tests::{Daemon, Terminal};

use super::Client;

/// Runs a command that opens an editor, on a terminal, with sed(1) as the editor.
fn edit(client: Client, daemon: &Daemon, words: &str, script: &str) {
    let work = tempfile::tempdir().unwrap();
    let editor = work.path().join("editor");
    std::fs::write(&editor, format!("#!/bin/sh\nexec sed -i '{script}' \"$1\"\n")).unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (status, said) = Terminal::start(client.run(daemon, words).env("EDITOR", &editor)).end();
    assert_eq!(status, 0, "{words}: {said}");
}

/// Keys and devices of an instance and of the server.
pub fn configuration(client: Client) {
    let daemon = Daemon::with_busybox();
    let run = |words: &str| client.run(&daemon, words);
    run("init busybox c1").ok();
    run("config set c1 user.note=hello limits.cpu=1").ok();
    run("config set c1 limits.memory 128MiB").ok();
    assert_eq!(run("config get c1 user.note").ok(), "hello\n");
    run("config unset c1 limits.cpu").ok();
    let shown = run("config show c1").ok();
    assert!(shown.contains("user.note: hello") && shown.contains("limits.memory: 128MiB"), "{shown}");
    assert!(!shown.contains("limits.cpu") && !shown.contains("eth0"), "{shown}");
    assert!(run("config show c1 --expanded").ok().contains("eth0:"));
    edit(client, &daemon, "config edit c1", "s/hello/edited/");
    assert_eq!(run("config get c1 user.note").ok(), "edited\n");
    let shown = run("config show c1").ok();
    client.run(&daemon, "config edit c1").input(shown.replace("edited", "piped")).ok();
    assert_eq!(run("config get c1 user.note").ok(), "piped\n");
    assert!(run("config set c1 limits.nonsense=1").fails().contains("limits.nonsense"));

    let network = daemon.networks().remove(0);
    run(&format!("config device add c1 eth1 nic network={network} name=eth1")).ok();
    assert_eq!(run("config device list c1").ok(), "eth1\n");
    run("config device set c1 eth1 name=eth7").ok();
    assert_eq!(run("config device get c1 eth1 name").ok(), "eth7\n");
    assert!(run("config device show c1").ok().contains("name: eth7"));
    run("start c1").ok();
    assert!(run("exec c1 -- ip link show eth7").ok().contains("eth7"));
    run("stop c1 --force").ok();
    run("config device remove c1 eth1").ok();
    run("config device override c1 eth0 name=lan").ok();
    assert!(run("config device show c1").ok().contains("name: lan"));

    run("config set user.server=yes").ok();
    assert_eq!(run("config get user.server").ok(), "yes\n");
    assert!(run("config show").ok().contains("user.server"));
    run("config unset user.server").ok();
    daemon.finish();
}

/// Profiles, their devices and who uses them.
pub fn profiles(client: Client) {
    let daemon = Daemon::with_busybox();
    let run = |words: &str| client.run(&daemon, words);
    run("init busybox c1").ok();
    run("profile create p1").ok();
    run("profile set p1 user.from=p1").ok();
    assert_eq!(run("profile get p1 user.from").ok(), "p1\n");
    let network = daemon.networks().remove(0);
    run(&format!("profile device add p1 eth1 nic network={network} name=eth1")).ok();
    assert_eq!(run("profile device list p1").ok(), "eth1\n");
    let shown = run("profile show p1").ok();
    assert!(shown.contains("user.from: p1") && shown.contains("eth1:") && shown.contains("name: p1"), "{shown}");
    edit(client, &daemon, "profile edit p1", "s/from:.*/from: edited/");
    assert_eq!(run("profile get p1 user.from").ok(), "edited\n");
    run("profile copy p1 p2").ok();
    run("profile set p2 user.from=p2").ok();
    run("profile rename p2 p3").ok();
    run("profile assign c1 default,p1,p3").ok();
    assert_eq!(daemon.instance("c1")["profiles"], serde_json::json!(["default", "p1", "p3"]));
    assert!(run("config show c1 --expanded").ok().contains("user.from: p2"), "the last one wins");
    run("profile set p3 user.from=later").ok();
    assert!(run("config show c1 --expanded").ok().contains("user.from: later"), "a change is seen at once");
    assert!(run("profile delete p3").fails().contains("instance \"c1\" of project \"default\" uses it"));
    run("profile remove c1 p3").ok();
    run("profile add c1 p3").ok();
    run("profile assign c1 default").ok();
    run("profile device remove p1 eth1").ok();
    assert!(!run("profile show p1").ok().contains("eth1"));
    run("profile delete p1").ok();
    run("profile delete p3").ok();
    assert!(run("profile create default").fails().contains("already exists"));
    let list = run("profile list --format csv").ok();
    assert!(list.starts_with("default,") && list.lines().count() == 1, "{list}");
    daemon.finish();
}

/// `monitor` shows what happens; `query` does anything.
pub fn events_and_queries(client: Client) {
    let daemon = Daemon::with_busybox();
    let run = |words: &str| client.run(&daemon, words);
    let mut events = Terminal::start(run("monitor --format json"));
    // Nothing tells when the monitor listens but that it shows something.
    let mut count = 0;
    while !events.saw("\"config-updated\"") {
        count += 1;
        run(&format!("config set user.count={count}")).ok();
    }
    run("launch busybox c1").ok();
    events.expect("instance-created");
    events.expect("instance-started");
    run("exec c1 -- true").ok();
    let until = events.expect("instance-exec");
    assert!(until.contains("\"type\":\"operation\"") && until.contains("Executing command"), "{until}");
    run("delete c1 --force").ok();
    events.expect("instance-stopped");
    events.expect("instance-deleted");
    events.send("\x03");
    events.end();

    assert_eq!(run("query /1.0/instances").json(), serde_json::json!([]));
    let body = r#"{"name":"q1","source":{"type":"none"},"config":{"user.a":"1"}}"#;
    client.args(&daemon, ["query", "--request", "POST", "--wait", "--data", body, "/1.0/instances"]).ok();
    let patch = r#"{"config":{"user.b":"2"}}"#;
    client.args(&daemon, ["query", "--request", "PATCH", "--data", patch, "/1.0/instances/q1"]).ok();
    let config = run("query /1.0/instances/q1").json()["config"].clone();
    assert_eq!((config["user.a"].as_str(), config["user.b"].as_str()), (Some("1"), Some("2")));
    assert!(run("query /1.0/instances/nosuch").fails().contains("not found"));
    run("query --request DELETE --wait /1.0/instances/q1").ok();
    assert_eq!(run("query /1.0/instances").json(), serde_json::json!([]));
    daemon.finish();
}
