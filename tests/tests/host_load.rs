//! Many clients at once, clients that are in each other's way, and clients that vanish: every answer is one that the API
//! declares, the end is consistent, and nothing stays behind.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use berth_tests::{Daemon, Run, Terminal, Watch, hung_up};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

/// Requests that are under way at a time.
const PARALLEL: usize = 1000;
/// Turns of each of the clients that fight.
const TURNS: usize = 40;

/// Reads an answer from a connection that stays open; its status.
fn status(stream: &mut UnixStream) -> u16 {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("the daemon answers");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("a head is text");
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status follows the version")
}

#[test]
fn a_thousand_requests_at_a_time() {
    // A descriptor for each connection, here and in the daemon, which is given this limit.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .expect("a limit can be raised to its maximum");
    let daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    // All are connected before the first asks.
    let mut connections: Vec<_> = (0..PARALLEL).map(|_| daemon.connect()).collect();
    for (number, stream) in connections.iter_mut().enumerate() {
        let request = |method: &str, path: &str, body: &str| {
            format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let text = match number % 5 {
            0 => request("GET", "/1.0/instances?recursion=2", ""),
            1 => request("GET", "/1.0", ""),
            2 => request("POST", "/1.0/profiles", &json!({"name": format!("p{number}")}).to_string()),
            3 => request("PATCH", "/1.0", &json!({"config": {format!("user.n{number}"): "1"}}).to_string()),
            _ => request("PATCH", "/1.0/instances/c1", &json!({"config": {"user.n": number.to_string()}}).to_string()),
        };
        stream.write_all(text.as_bytes()).expect("the daemon reads");
    }
    let mut changed = 0;
    for (number, stream) in connections.iter_mut().enumerate() {
        let status = status(stream);
        match number % 5 {
            0 | 1 | 3 => assert_eq!(status, 200, "request {number}"),
            2 => assert_eq!(status, 201, "request {number}"),
            // Whoever comes second is told so.
            _ => {
                assert!([200, 412].contains(&status), "request {number}: {status}");
                changed += usize::from(status == 200);
            }
        }
    }
    drop(connections);
    assert!(changed > 0, "nobody came first");
    let profiles = daemon.get("/1.0/profiles").as_array().expect("a list").len();
    assert_eq!(profiles, 1 + PARALLEL / 5);
    assert_eq!(daemon.get("/1.0")["config"].as_object().expect("a map").len(), PARALLEL / 5);
    assert_eq!(daemon.berth("exec c1 -- echo there").ok(), "there\n");
    daemon.finish();
}

/// What a client does that wants its own way with an instance of either name; the turn decides.
fn fight(daemon: &Daemon, client: usize) {
    let (names, mut seed) = (["a", "b"], client + 1);
    for turn in 0..TURNS {
        // A linear congruence: other turns for each client, the same in every run.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (name, other) = (names[(seed >> 33) % 2], names[1 - (seed >> 33) % 2]);
        let instance = format!("/1.0/instances/{name}");
        let state = |action: &str| json!({"action": action, "force": true, "timeout": 5}).to_string();
        let (method, path, body) = match (seed >> 40) % 7 {
            0 | 1 => ("PUT", format!("{instance}/state"), state("start")),
            2 => ("PUT", format!("{instance}/state"), state("stop")),
            3 => ("PUT", format!("{instance}/state"), state("restart")),
            4 => ("POST", instance, json!({"name": other}).to_string()),
            5 => ("DELETE", instance, String::new()),
            _ => {
                let body = json!({"name": name, "source": {"type": "image", "alias": "busybox"}});
                ("POST", "/1.0/instances".to_owned(), body.to_string())
            }
        };
        let answer = daemon.http(method, &path, &[], body.as_bytes());
        let what = format!("client {client}, turn {turn}: {method} {path} {body}: {answer:?}");
        assert!([202, 400, 404, 409, 412].contains(&answer.status), "{what}");
        if answer.status != 202 {
            assert!(!answer.error().is_empty(), "{what}");
            continue;
        }
        let operation = answer.json()["metadata"]["id"].as_str().expect("an operation has an id").to_owned();
        let end = daemon.http("GET", &format!("/1.0/operations/{operation}/wait"), &[], b"");
        let (code, error) = (end.json()["metadata"]["status_code"].clone(), end.json()["metadata"]["err"].clone());
        let error = error.as_str().expect("a text");
        assert!(code == 200 && error.is_empty() || code == 400 && !error.is_empty(), "{what}: {end:?}");
        assert!(!error.to_lowercase().contains("internal") && !error.contains("panick"), "{what}: {end:?}");
    }
}

#[test]
fn clients_that_fight_over_instances() {
    let daemon = Daemon::with_busybox();
    std::thread::scope(|scope| {
        for client in 0..3 {
            let daemon = &daemon;
            scope.spawn(move || fight(daemon, client));
        }
    });
    // What is there works, and what is not there can be made.
    let names = daemon.berth("list --format csv --columns n").ok();
    for name in ["a", "b"] {
        if !names.lines().any(|line| line == name) {
            daemon.berth(&format!("init busybox {name}")).ok();
        }
        daemon.berth(&format!("stop --force {name}")).any();
        daemon.berth(&format!("start {name}")).ok();
        assert_eq!(daemon.berth(&format!("exec {name} -- hostname")).ok(), format!("{name}\n"));
    }
    assert_eq!(std::fs::read_dir(daemon.volume_dir("containers")).expect("the pool is there").count(), 2);
    assert_eq!(daemon.ports().len(), 2);
    daemon.finish();
}

/// Descriptors that the daemon has open after one more request.
fn descriptors_after_request(daemon: &Daemon) -> usize {
    daemon.http("GET", "/1.0", &[], b"");
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("the daemon runs").count()
}

#[test]
fn clients_that_vanish() {
    let daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    let fingerprint = daemon.get("/1.0/images?recursion=1")[0]["fingerprint"].as_str().expect("a text").to_owned();
    let images = Watch::on(daemon.dir().join("images"));
    daemon.berth("exec c1 -- dd if=/dev/zero of=/root/large bs=1M count=16").ok();
    let mut before = usize::MAX;
    // The first round opens what the daemon keeps.
    for round in 0..4 {
        // An upload of an image.
        let mut stream = daemon.connect();
        let head = "POST /1.0/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 9000000\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("the daemon reads");
        stream.write_all(&[7; 1_000_000]).expect("the daemon reads");
        let staging = images.entry();
        stream.shutdown(Shutdown::Write).expect("it is open");
        images.left(staging.file_name().and_then(|name| name.to_str()).expect("it has a name"));
        hung_up(&stream);
        // An upload of a file into an instance.
        let mut stream = daemon.connect();
        let head =
            "POST /1.0/instances/c1/files?path=/root/half HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("the daemon reads");
        stream.write_all(&[7; 100_000]).expect("the daemon reads");
        stream.shutdown(Shutdown::Write).expect("it is open");
        hung_up(&stream);
        // Downloads: of an image, and of a file of an instance.
        for path in [&*format!("/1.0/images/{fingerprint}/export"), "/1.0/instances/c1/files?path=/root/large"] {
            let mut stream = daemon.connect();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("the daemon reads");
            assert_eq!(status(&mut stream), 200, "{path}");
            stream.read_exact(&mut [0; 1000]).expect("there is more");
        }
        // A program whose client is killed: what it runs ends with it.
        let mut client =
            Terminal::start(daemon.berth_args(["exec", "c1", "--", "sh", "-c", "echo begun; exec sleep 4321"]));
        client.expect("begun");
        let operations = daemon.get("/1.0/operations?recursion=1");
        let running = operations["running"].as_array().expect("it runs");
        let [operation] = &running[..] else { panic!("{operations}") };
        let id = operation["id"].as_str().expect("a text").to_owned();
        // Its terminal goes, and so does it.
        drop(client);
        daemon.get(&format!("/1.0/operations/{id}/wait"));
        assert!(!daemon.berth("exec c1 -- ps").ok().contains("4321"));
        // A reader of events.
        let mut events = daemon.connect();
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==";
        write!(events, "GET /1.0/events HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n\r\n").expect("the daemon reads");
        assert_eq!(status(&mut events), 101);
        events.shutdown(Shutdown::Write).expect("it is open");
        hung_up(&events);
        if round == 0 {
            // What a connection held is closed just after it.
            before = (0..200).map(|_| descriptors_after_request(&daemon)).min().expect("there are some");
        }
    }
    let back = (0..10_000).any(|_| descriptors_after_request(&daemon) <= before);
    let open = Run::new("ls", ["-l", &format!("/proc/{}/fd", daemon.pid())]).ok();
    assert!(back, "{before} descriptors were open, and now\n{open}");
    let operations = daemon.get("/1.0/operations");
    assert!(operations.get("running").is_none(), "{operations}");
    daemon.finish();
}
