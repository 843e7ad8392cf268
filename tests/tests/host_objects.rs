//! Networks, operations, entity tags, completion and the looks of lists.

use berth_tests::{Daemon, Run, Terminal, programs};
use serde_json::json;

#[test]
fn networks() {
    let daemon = Daemon::with_busybox();
    let run = |words: &str| daemon.berth(words);
    // Other daemons run at the same time, so the name is one that no other test takes.
    let name = format!("bt{}", std::process::id());
    run(&format!("network create {name} ipv4.address=none ipv6.address=fd42:1:2:3::1/64 --description test")).ok();
    let shown = run(&format!("network show {name}")).ok();
    assert!(shown.contains("ipv6.address: fd42:1:2:3::1/64") && shown.contains("description: test"), "{shown}");
    let list = run("network list --format csv").ok();
    assert!(list.contains(&format!("{name},bridge,YES,none,fd42:1:2:3::1/64,test,0,CREATED")), "{list}");
    let info = run(&format!("network info {name}")).ok();
    assert!(info.contains("State: up") && info.contains("fd42:1:2:3::1"), "{info}");
    assert!(Run::new("ip", ["link", "show", &name]).ok().contains("UP"));

    run(&format!("init busybox c1 --network {name}")).ok();
    run("start c1").ok();
    assert!(daemon.ports().iter().any(|port| port.contains(&format!("master {name}"))), "{:?}", daemon.ports());
    assert!(run(&format!("network delete {name}")).fails().contains("c1"), "it is in use");
    assert!(run(&format!("network list-leases {name}")).ok().contains("fd42:1:2:3::1"));
    run("delete --force c1").ok();
    run(&format!("network set {name} dns.domain=test")).ok();
    assert_eq!(run(&format!("network get {name} dns.domain")).ok(), "test\n");
    assert!(run(&format!("network create {name}")).fails().contains("already exists"));
    assert!(run("network create lo").fails().contains("lo"));
    assert!(run(&format!("network set {name} ipv4.nat=perhaps")).fails().contains("ipv4.nat"));
    run(&format!("network delete {name}")).ok();
    Run::new("ip", ["link", "show", &name]).fails();
    daemon.finish();
}

#[test]
fn operations() {
    let daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    let mut program = Terminal::start(daemon.berth_args(["exec", "c1", "--", "sh", "-c", "echo runs; exec sleep 600"]));
    program.expect("runs");
    let list = daemon.berth("operation list --format csv").ok();
    let line = list.lines().find(|line| line.contains("Executing command")).unwrap_or_else(|| panic!("{list}"));
    assert!(line.contains("WEBSOCKET") && line.contains("RUNNING,YES"), "{line}");
    let id = line.split(',').next().unwrap();
    assert!(daemon.berth_args(["operation", "show", id]).ok().contains("status: Running"));
    daemon.berth_args(["operation", "delete", id]).ok();
    assert_ne!(program.end().0, 0, "the program dies with its operation");
    assert!(!daemon.berth("exec c1 -- ps").ok().contains("sleep 600"), "it is gone");
    assert!(daemon.berth("operation show nosuch").fails().contains("nosuch"));
    daemon.finish();
}

#[test]
fn a_change_of_what_has_changed_is_refused() {
    let daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1").ok();
    for path in ["/1.0/instances/c1", "/1.0/profiles/default", "/1.0"] {
        let seen = daemon.http("GET", path, &[], b"");
        let tag = seen.header("etag").unwrap_or_else(|| panic!("{path} has a tag: {}", seen.head)).to_owned();
        let patch = |value: &str, tag: &str| {
            let body = json!({"config": {"user.changed": value}}).to_string();
            daemon.http("PATCH", path, &[("If-Match", tag)], body.as_bytes())
        };
        assert_eq!(patch("1", &tag).status, 200, "{path}");
        let late = patch("2", &tag);
        assert_eq!(late.status, 412, "{path}");
        assert!(late.error().contains("ETag doesn't match"), "{path}: {late:?}");
        assert_eq!(daemon.get(path)["config"]["user.changed"], "1", "{path}");
    }
    daemon.finish();
}

#[test]
fn the_shell_completes_living_names() {
    let daemon = Daemon::with_busybox();
    daemon.berth("init busybox completed").ok();
    let complete = |words: &str| {
        let script = format!(
            "source <(COMPLETE=bash berth); complete=$(complete -p berth | sed 's/.*-F \\([^ ]*\\).*/\\1/')
            COMP_WORDS=({words} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_TYPE=9; COMP_LINE='{words} '
            COMP_POINT=${{#COMP_LINE}}; $complete berth '' ''; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let path = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap());
        Run::new("bash", ["-c", &script]).env("PATH", path).env("BERTH_DIR", daemon.dir()).ok()
    };
    assert!(complete("berth stop").contains("completed\n"), "{}", complete("berth stop"));
    assert!(complete("berth exec").contains("completed\n"));
    assert!(complete("berth launch").contains("busybox\n"));
    assert!(complete("berth profile show").contains("default\n"));
    assert!(complete("berth").contains("launch\n"));
    daemon.finish();
}

#[test]
fn lists_fit_the_terminal() {
    let daemon = Daemon::with_busybox();
    daemon.berth_args(["init", "busybox", "c1", "--description", "a description of many words, all of them long"]).ok();
    daemon.berth("init busybox a-name-that-is-rather-long-for-an-instance-but-allowed-still").ok();
    for words in
        ["list", "list --columns ns46tSdbcP", "list --format compact", "image list", "network list", "storage list"]
    {
        let (status, shown) = Terminal::start(daemon.berth(words)).end();
        assert_eq!(status, 0, "{shown}");
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "berth {words}: longer than 80 columns: {line}");
        }
    }
    let json = daemon.berth("list --format json").json();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!(json[1]["name"], "c1");
    assert!(daemon.berth("list --format yaml").ok().contains("name: c1"));
    let csv = daemon.berth("list c1 --format csv --columns nd").ok();
    assert_eq!(csv, "c1,\"a description of many words, all of them long\"\n");
    // Not on a terminal nothing is cut.
    assert!(daemon.berth("list").ok().contains("a-name-that-is-rather-long-for-an-instance-but-allowed-still"));
    daemon.finish();
}

#[test]
fn the_daemon_is_small() {
    let daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    let kib: u64 = resident.unwrap();
    // A development build; `cargo xtask bench` measures what is released.
    assert!(kib < 60 * 1024, "{kib} KiB");
    daemon.finish();
}
