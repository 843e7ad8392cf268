//! A daemon of its own for each test: in its own network and process namespaces, so that nothing of it stays.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::Value;

/// The program under test.
pub const BERTHD: &str = env!("CARGO_BIN_EXE_berthd");

/// A running daemon; dropping it ends it and all it started.
pub struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The envelope.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

impl Daemon {
    /// Starts one on a fresh directory and waits until it is ready.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = Self::serve(&dir);
        let daemon = Self { child, dir };
        assert!(daemon.berthd(&["waitready", "--timeout", "30"]), "the daemon is not ready");
        daemon
    }

    fn serve(dir: &tempfile::TempDir) -> Child {
        Command::new("unshare")
            .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args([BERTHD, "serve", "--dir"])
            .arg(dir.path().join("berth"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Starts it again on its directory.
    pub fn again(&mut self) {
        self.child = Self::serve(&self.dir);
        assert!(self.berthd(&["waitready", "--timeout", "30"]), "the daemon is not ready again");
    }

    /// Its data directory.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("berth")
    }

    /// Runs a subcommand on its directory; whether it succeeded.
    pub fn berthd(&self, arguments: &[&str]) -> bool {
        let (command, rest) = arguments.split_first().unwrap();
        Command::new(BERTHD).arg(command).arg("--dir").arg(self.dir()).args(rest).status().unwrap().success()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// A connection.
    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir().join("unix.socket")).unwrap()
    }

    /// One request.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        // A daemon that refuses a body may close before all of it is sent.
        let _ = stream.write_all(body);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { code, head, body: all[end + 4..].to_vec() }
    }

    /// `GET`; gives the metadata.
    pub fn get(&self, path: &str) -> Value {
        let answer = self.request("GET", path, &[], b"");
        assert_eq!(answer.code, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()["metadata"].take()
    }

    /// A request with JSON.
    pub fn send(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.request(method, path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    /// A request that starts an operation; gives it as it ended.
    pub fn background(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.send(method, path, body);
        assert_eq!(answer.code, 202, "{path}: {}", String::from_utf8_lossy(&answer.body));
        let url = answer.json()["operation"].as_str().unwrap().to_owned();
        let (base, query) = url.split_once('?').map_or((url.as_str(), ""), |(base, query)| (base, query));
        self.get(&format!("{base}/wait?timeout=20&{query}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The end of the daemon is the end of its process namespace: nothing writes to the directory after it. One that
        // does not answer is killed, and with `--kill-child` that takes the same way.
        if !matches!(self.child.try_wait(), Ok(Some(_))) && !self.berthd(&["shutdown", "--timeout", "20"]) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
