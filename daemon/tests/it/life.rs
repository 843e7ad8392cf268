//! Start and end of the daemon, uploads that break off, and the stream of events.

use std::{io::Write, time::Duration};

use crate::common::{BERTHD, Daemon};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio_tungstenite::{client_async, tungstenite::Message};

#[test]
fn a_directory_has_one_daemon_and_keeps_its_state() {
    let mut daemon = Daemon::start();
    let second = std::process::Command::new(BERTHD).args(["serve", "--dir"]).arg(daemon.dir()).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"), "{second:?}");
    // The second one did not take the socket away.
    assert_eq!(daemon.send("PUT", "/1.0", &json!({"config": {"user.a": "1"}})).code, 200);
    assert!(daemon.berthd(&["shutdown"]));
    assert!(daemon.wait());
    assert!(!daemon.dir().join("unix.socket").exists());
    assert!(!daemon.berthd(&["shutdown"]));
    daemon.again();
    assert_eq!(daemon.get("/1.0")["config"], json!({"user.a": "1"}));
}

#[test]
fn uploads_that_are_no_images_leave_nothing() {
    let daemon = Daemon::start();
    let files = || walk(&daemon.dir().join("images"));
    let before = files();
    assert_eq!(daemon.request("POST", "/1.0/images", &[("Content-Type", "application/octet-stream")], b"").code, 400);
    let form = "--b\r\nContent-Disposition: form-data; name=\"evil\"\r\n\r\nx\r\n--b--\r\n";
    let answer =
        daemon.request("POST", "/1.0/images", &[("Content-Type", "multipart/form-data; boundary=b")], form.as_bytes());
    assert_eq!(answer.code, 400);
    let build = daemon.send("POST", "/1.0/images", &json!({"source": {"type": "image", "server": "https://x"}}));
    assert!(build.json()["error"].as_str().unwrap().contains("https://x"));
    // A client that vanishes: what it sent is gone when the daemon answers the next but one request on a new connection.
    let mut stream = daemon.connect();
    let head = "POST /1.0/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000\r\n\r\nabc";
    stream.write_all(head.as_bytes()).unwrap();
    drop(stream);
    let gone = (0..200).any(|_| {
        daemon.get("/1.0");
        files() == before
    });
    assert!(gone, "{:?}", files());
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries.map(|entry| entry.path()).collect();
    for dir in all.clone().iter().filter(|path| path.is_dir()) {
        all.extend(walk(dir));
    }
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_operations_and_who_caused_what() {
    let daemon = std::sync::Arc::new(Daemon::start());
    let stream = tokio::net::UnixStream::connect(daemon.dir().join("unix.socket")).await.unwrap();
    let (mut events, _) = client_async("ws://unix.socket/1.0/events?type=operation,lifecycle", stream).await.unwrap();
    let client = daemon.clone();
    let made = tokio::task::spawn_blocking(move || {
        client.background("POST", "/1.0/instances", &json!({"name": "c1", "source": {"type": "none"}}))
    });
    let (mut created, mut succeeded) = (None, false);
    while created.is_none() || !succeeded {
        let message = tokio::time::timeout(Duration::from_secs(20), events.next()).await.expect("an event in time");
        let Message::Text(text) = message.unwrap().unwrap() else { continue };
        let event: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&event["location"], &event["project"]), (&json!("none"), &json!("default")));
        if event["metadata"]["action"] == "instance-created" {
            created = Some(event["metadata"].clone());
        }
        succeeded |= event["type"] == "operation" && event["metadata"]["status"] == "Success";
    }
    let created = created.unwrap();
    assert_eq!(created["source"], "/1.0/instances/c1");
    assert_eq!(created["requestor"], json!({"username": "root", "protocol": "unix", "address": "@"}));
    assert_eq!(made.await.unwrap()["status"], "Success");
    let refused = daemon.request("GET", "/1.0/events?type=gossip", &[], b"");
    assert_eq!(refused.code, 400);
}
