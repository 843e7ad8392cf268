//! The program against a server that answers from a table.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};

/// Answers by `METHOD path?query`.
type Answers = HashMap<String, (u16, Value)>;

struct Fake {
    directory: tempfile::TempDir,
    requests: Arc<Mutex<Vec<(String, String)>>>,
}

impl Fake {
    fn start(answers: &[(&str, u16, Value)]) -> Self {
        let answers: Answers =
            answers.iter().map(|(line, status, body)| ((*line).to_owned(), (*status, body.clone()))).collect();
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("unix.socket")).unwrap();
        let requests: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let _ = serve(stream, &answers, &seen);
            }
        });
        Self { directory, requests }
    }

    fn berth(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.env_clear().env("BERTH_DIR", self.directory.path()).env("PATH", "/usr/bin:/bin").env("TZ", "UTC");
        command.args(arguments);
        command
    }

    /// Request lines, without the bodies.
    fn lines(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }

    fn body(&self, line: &str) -> Value {
        let requests = self.requests.lock().unwrap();
        let (_, body) = requests.iter().rev().find(|(seen, _)| seen == line).unwrap();
        serde_json::from_str(body).unwrap()
    }
}

/// One request, one answer.
fn serve(stream: UnixStream, answers: &Answers, seen: &Mutex<Vec<(String, String)>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.rsplit_once(' ').map_or("", |(line, _)| line).to_owned();
    let mut length = 0;
    let mut chunked = false;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        chunked |= header.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    // What is left unread when the connection is closed would reset it under the client's hands.
    while chunked {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + "\r\n".len()];
        reader.read_exact(&mut chunk)?;
        body.extend_from_slice(&chunk[..size]);
        chunked = size > 0;
    }
    seen.lock().unwrap().push((line.clone(), String::from_utf8_lossy(&body).into_owned()));
    let missing = (404, envelope("error", 404, "Instance not found", Value::Null));
    let (status, body) = answers.get(&line).unwrap_or(&missing);
    let text = body.to_string();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nETag: \"v1\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

fn envelope(kind: &str, error_code: u16, error: &str, metadata: Value) -> Value {
    json!({"type": kind, "status": "", "status_code": 200, "operation": "/1.0/operations/op1",
        "error_code": error_code, "error": error, "metadata": metadata})
}

fn sync(metadata: Value) -> Value {
    envelope("sync", 0, "", metadata)
}

/// An operation that has ended when it is told.
fn ended(metadata: Value) -> Value {
    let operation = json!({"id": "op1", "status": "Success", "status_code": 200, "metadata": metadata,
        "resources": {"instances": ["/1.0/instances/c1"]}});
    envelope("async", 0, "", operation)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn running() -> Value {
    json!({"name": "c1", "status": "Running", "status_code": 103, "type": "container", "config": {"limits.cpu": "1"},
        "profiles": ["default"], "snapshots": [], "state": {"pid": 5, "network": {"eth0": {"type": "broadcast",
        "addresses": [{"family": "inet", "address": "10.0.0.2", "netmask": "24", "scope": "global"}]}}}})
}

#[test]
fn list_is_a_table() {
    let line = "GET /1.0/instances?filter=&recursion=2";
    let fake = Fake::start(&[(line, 200, sync(json!([running()])))]);
    let output = fake.berth(&["list"]);
    assert_eq!(
        text(&output.stdout),
        "\
+------+---------+-----------------+------+-----------+-----------+
| NAME | STATE   | IPV4            | IPV6 | TYPE      | SNAPSHOTS |
+------+---------+-----------------+------+-----------+-----------+
| c1   | RUNNING | 10.0.0.2 (eth0) |      | CONTAINER | 0         |
+------+---------+-----------------+------+-----------+-----------+
"
    );
    assert_eq!(text(&fake.berth(&["ls", "-f", "csv", "-c", "n4"]).stdout), "c1,10.0.0.2 (eth0)\n");
    let json: Value = serde_json::from_slice(&fake.berth(&["list", "--format", "json"]).stdout).unwrap();
    assert_eq!(json[0]["name"], "c1");
}

#[test]
fn launch_creates_and_starts() {
    let fake = Fake::start(&[
        ("GET /1.0/images/aliases/debian%2F12?project=web", 200, sync(json!({"name": "debian/12", "target": "37ff"}))),
        ("POST /1.0/instances?project=web", 202, ended(Value::Null)),
        ("PUT /1.0/instances/c1/state?project=web", 202, ended(Value::Null)),
    ]);
    let output = fake.berth(&[
        "--project",
        "web",
        "launch",
        "local:debian/12",
        "c1",
        "--vm",
        "--wait",
        "-c",
        "limits.cpu=2",
        "-s",
        "fast",
    ]);
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("Creating c1\nStarting c1\n".into(), String::new()));
    assert!(output.status.success());
    let post = fake.body("POST /1.0/instances?project=web");
    assert_eq!(post["source"]["fingerprint"], "37ff");
    assert_eq!(post["type"], "virtual-machine");
    assert_eq!(post["config"], json!({"limits.cpu": "2"}));
    assert_eq!(post["devices"]["root"], json!({"path": "/", "pool": "fast", "type": "disk"}));
    assert_eq!(post["profiles"], Value::Null);
    assert_eq!(fake.body("PUT /1.0/instances/c1/state?project=web")["wait"], true);
}

#[test]
fn delete_spares_the_running() {
    let fake = Fake::start(&[
        ("GET /1.0/instances/c1", 200, sync(running())),
        ("PUT /1.0/instances/c1/state", 202, ended(Value::Null)),
        ("DELETE /1.0/instances/c1", 202, ended(Value::Null)),
    ]);
    let output = fake.berth(&["delete", "c1"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "Error: the instance `c1` is running: stop it first, or delete it with --force\n");
    let output = fake.berth(&["delete", "--force", "c1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(fake.lines().last().unwrap(), "DELETE /1.0/instances/c1");
    let output = fake.berth(&["delete", "none"]);
    assert!(text(&output.stderr).contains("`berth list` shows"), "{}", text(&output.stderr));
}

#[test]
fn config_changes_what_it_must_and_no_more() {
    let fake = Fake::start(&[
        ("GET /1.0/instances/c1", 200, sync(running())),
        ("PUT /1.0/instances/c1", 202, ended(Value::Null)),
    ]);
    for arguments in
        [["config", "set", "c1", "limits.memory=1GiB"].as_slice(), &["config", "set", "c1", "limits.memory", "1GiB"]]
    {
        assert!(fake.berth(arguments).status.success());
        let put = fake.body("PUT /1.0/instances/c1");
        assert_eq!(put["config"], json!({"limits.cpu": "1", "limits.memory": "1GiB"}));
        assert_eq!(put["profiles"], json!(["default"]));
    }
    assert_eq!(text(&fake.berth(&["config", "get", "c1", "limits.cpu"]).stdout), "1\n");
    assert!(
        fake.berth(&["config", "device", "add", "c1", "data", "disk", "source=/srv", "path=/srv"]).status.success()
    );
    let put = fake.body("PUT /1.0/instances/c1");
    assert_eq!(put["devices"], json!({"data": {"path": "/srv", "source": "/srv", "type": "disk"}}));
    let show = text(&fake.berth(&["config", "show", "c1"]).stdout);
    assert!(show.contains("config:\n  limits.cpu: \"1\"\n"), "{show}");
}

#[test]
fn edit_asks_again_and_keeps_the_text() {
    let error = envelope("error", 400, "Unknown configuration key: limits.cpuu", Value::Null);
    let fake = Fake::start(&[
        ("GET /1.0/profiles/p", 200, sync(json!({"name": "p", "config": {}}))),
        ("PUT /1.0/profiles/p", 400, error),
    ]);
    // The editor notes what it is shown, changes the description the first time, then gives up.
    let seen = fake.directory.path().join("seen");
    let editor = fake.directory.path().join("editor");
    let script = format!(
        "#!/bin/sh\ncat \"$1\" >> {0}\necho ==== >> {0}\nsed -i 's/description: \"\"/description: mine/' \"$1\"\n",
        seen.display()
    );
    std::fs::write(&editor, script).unwrap();
    let shell = format!("sh {}", editor.display());
    // `script` gives the program a terminal as standard input.
    let berth = format!("{} profile edit p", env!("CARGO_BIN_EXE_berth"));
    let output = Command::new("script")
        .args(["-qec", &berth, "/dev/null"])
        .env("BERTH_DIR", fake.directory.path())
        .env("EDITOR", shell)
        .env_remove("VISUAL")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let seen = std::fs::read_to_string(seen).unwrap();
    let shown: Vec<&str> = seen.split("====\n").collect();
    assert_eq!(shown.len(), 3, "{seen}{}", text(&output.stdout));
    assert!(!shown[0].contains("###") && shown[0].contains("description: \"\""));
    assert!(shown[1].contains("### Unknown configuration key: limits.cpuu\n"), "{}", shown[1]);
    assert!(shown[1].contains("description: mine\n"));
    assert!(text(&output.stdout).contains("nothing was changed: Unknown configuration key"));
}

#[test]
fn files_are_pushed_with_what_they_are() {
    let target = "POST /1.0/instances/c1/files?path=%2Ftmp%2Fa%20b";
    let fake = Fake::start(&[(target, 200, sync(json!({})))]);
    let mut child =
        fake.command(&["file", "push", "-", "c1/tmp/a b", "--mode", "600"]).stdin(Stdio::piped()).spawn().unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(fake.lines().last().unwrap(), target);
}

#[test]
fn errors_say_the_next_step() {
    let berth = |arguments: &[&str]| {
        let none = PathBuf::from("/nonexistent");
        Command::new(env!("CARGO_BIN_EXE_berth")).env("BERTH_DIR", none).args(arguments).output().unwrap()
    };
    let output = berth(&["list"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.starts_with("Error: no Berth daemon answers on /nonexistent/unix.socket"), "{error}");
    assert!(error.contains("systemctl start berth") && error.trim().lines().count() == 1, "{error}");
    let error = text(&berth(&["lunch", "x"]).stderr);
    assert!(error.contains("launch"), "{error}");
    assert!(text(&berth(&["version"]).stdout).contains("Server version: unreachable"));
}

#[test]
fn names_are_completed() {
    let fake = Fake::start(&[("GET /1.0/instances", 200, sync(json!(["/1.0/instances/web1", "/1.0/instances/db"])))]);
    let output = fake
        .command(&["--", "berth", "stop", "we"])
        .envs([
            ("COMPLETE", "bash"),
            ("_CLAP_COMPLETE_INDEX", "2"),
            ("_CLAP_IFS", "\n"),
            ("_CLAP_COMPLETE_COMP_TYPE", "9"),
        ])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout).trim(), "web1", "{}", text(&output.stderr));
}
