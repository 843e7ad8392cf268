//! Clients that mean no good, or break off.

use std::io::{Read, Write};

use berth_tests::{Daemon, Terminal, Watch};

#[test]
fn secrets_of_an_operation_are_for_its_creator() {
    let daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    let mut events = Terminal::start(daemon.berth("monitor --format json --type operation,lifecycle"));
    let mut count = 0;
    // Nothing tells when the monitor listens but that it shows something.
    while !events.saw("config-updated") {
        count += 1;
        daemon.berth(&format!("config set user.count={count}")).ok();
    }
    let body = br#"{"command":["true"],"wait-for-websocket":true,"interactive":false}"#;
    let made = daemon.http("POST", "/1.0/instances/c1/exec", &[], body);
    assert_eq!(made.status, 202);
    let operation = made.json()["metadata"].clone();
    let secret = operation["metadata"]["fds"]["0"].as_str().expect("the creator sees it").to_owned();
    let path = format!("/1.0/operations/{}", operation["id"].as_str().unwrap());
    for place in [&*path, "/1.0/operations?recursion=1", &format!("{path}/wait?timeout=0")] {
        let shown = daemon.http("GET", place, &[], b"");
        assert!(shown.body.contains("Executing command"), "{place}: {shown:?}");
        assert!(!shown.body.contains("fds") && !shown.body.contains(&secret), "{place}: {shown:?}");
    }
    let told = events.expect("Executing command") + &events.expect("\n");
    assert!(!told.contains("fds") && !told.contains(&secret), "{told}");

    let websocket = |secret: &str| {
        let upgrade = [
            ("Connection", "Upgrade, close"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ];
        daemon.http("GET", &format!("{path}/websocket?secret={secret}"), &upgrade, b"")
    };
    assert_eq!(websocket(&"0".repeat(64)).status, 403);
    assert_eq!(daemon.http("GET", &format!("{path}/websocket?secret={secret}"), &[], b"").status, 400, "no upgrade");
    assert_eq!(daemon.http("DELETE", &path, &[], b"").status, 200);
    daemon.finish();
}

#[test]
fn what_is_too_large_or_garbled_is_refused() {
    let daemon = Daemon::with_busybox();
    let large = format!(r#"{{"name":"c1","description":"{}"}}"#, "x".repeat(5 << 20));
    let answer = daemon.http("POST", "/1.0/instances", &[], large.as_bytes());
    assert_eq!(answer.status, 413);
    assert!(answer.error().contains("limit"), "{answer:?}");
    let deep = "[".repeat(100_000);
    assert_eq!(daemon.http("POST", "/1.0/instances", &[], deep.as_bytes()).status, 400);
    assert_eq!(daemon.http("POST", "/1.0/instances", &[], b"\xff\xfe").status, 400);
    for (filter, why) in [
        ("name", "no operator"),
        ("name%20gt%20x", "operators are eq and ne"),
        ("name%20eq%20%27x", "quote"),
        (&*"a%20eq%20b%20and%20".repeat(100), "clauses"),
        ("name%20eq%20((((((((((.*)*)*)*)*)*)*)*)*)*)*", ""),
    ] {
        let answer = daemon.http("GET", &format!("/1.0/instances?recursion=1&filter={filter}"), &[], b"");
        let expected = if why.is_empty() { 200 } else { 400 };
        assert_eq!(answer.status, expected, "{filter}: {answer:?}");
        assert!(answer.error().contains(why), "{filter}: {answer:?}");
    }
    for path in ["/1.0/instances/..", "/1.0/instances/%2e%2e%2fetc", "/1.0/images/..%2f..", "/1.0/nothing", "/2.0"] {
        let answer = daemon.http("GET", path, &[], b"");
        assert!([400, 404].contains(&answer.status), "{path}: {answer:?}");
    }
    let answer = daemon.http("GET", &format!("/1.0?x={}", "y".repeat(1 << 20)), &[], b"");
    assert!([400, 414, 431].contains(&answer.status), "{answer:?}");
    assert_eq!(daemon.http("BREW", "/1.0/instances", &[], b"").status, 501);
    for name in ["..", "a/b", "-a", "a_b", &"a".repeat(64), "1.2", "ä"] {
        let body = serde_json::json!({"name": name, "source": {"type": "none"}}).to_string();
        let answer = daemon.http("POST", "/1.0/instances", &[], body.as_bytes());
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
        assert!(answer.error().contains("name"), "{name}: {answer:?}");
    }
    daemon.berth("list").ok();
    daemon.finish();
}

#[test]
fn bytes_that_are_no_request_disturb_nobody() {
    let daemon = Daemon::start();
    for bytes in [
        &b"\0\0\0\0"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"POST /1.0/instances HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ] {
        let mut stream = daemon.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // Closed with or without an answer.
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{bytes:?}");
    }
    // Many that say nothing, and one that works meanwhile.
    let silent: Vec<_> = (0..200).map(|_| daemon.connect()).collect();
    daemon.berth("list").ok();
    drop(silent);
    daemon.finish();
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let daemon = Daemon::start();
    let images = Watch::on(daemon.dir().join("images"));
    let mut stream = daemon.connect();
    let head = "POST /1.0/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[7; 1_000_000]).unwrap();
    let staging = images.entry();
    let name = staging.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with(".staging-"), "{name}");
    drop(stream);
    images.left(&name);
    assert_eq!(daemon.berth("image list --format csv").ok(), "");
    // And one that is complete, but no image.
    let answer = daemon.http("POST", "/1.0/images", &[("Content-Type", "application/octet-stream")], &[7; 1_000_000]);
    let refused = if answer.status == 202 {
        let operation = answer.json()["operation"].as_str().unwrap().to_owned();
        daemon.get(&format!("{operation}/wait"))["err"].as_str().unwrap().to_owned()
    } else {
        answer.error()
    };
    assert!(refused.to_lowercase().contains("archive"), "{refused}");
    daemon.finish();
}

#[test]
fn paths_of_files_stay_inside() {
    let daemon = Daemon::with_busybox();
    daemon.berth("init busybox c1").ok();
    let secret = daemon.dir().join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let up = "..%2f".repeat(20);
    let path = secret.to_str().unwrap();
    for path in
        [format!("{up}{path}"), path.to_owned(), format!("/proc/1/root{path}"), format!("/bin/..%2f..%2f..{path}")]
    {
        let answer = daemon.http("GET", &format!("/1.0/instances/c1/files?path={path}"), &[], b"");
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        let answer = daemon.http("DELETE", &format!("/1.0/instances/c1/files?path={path}"), &[], b"");
        assert_ne!(answer.status, 200, "{path}: {answer:?}");
    }
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "of the host");
    assert_eq!(daemon.http("GET", "/1.0/instances/c1/files?path=/etc%00/x", &[], b"").status, 400);
    assert_eq!(daemon.http("GET", "/1.0/instances/c1/files", &[], b"").status, 400);
    let log = daemon.http("GET", "/1.0/instances/c1/logs/..%2f..%2fsecret", &[], b"");
    assert!([400, 404].contains(&log.status), "{log:?}");
    daemon.finish();
}
