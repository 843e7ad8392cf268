//! Requests as no client of ours sends them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::daemon::Daemon;
use crate::run::patience;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Head, as it came.
    pub head: String,
    /// Body, as it came.
    pub body: String,
}

impl Reply {
    /// Value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }

    /// What the envelope says went wrong.
    #[track_caller]
    pub fn error(&self) -> String {
        self.json()["error"].as_str().expect("an envelope has an error").to_owned()
    }
}

/// An address of this host that no other test uses: of those for loopback, by the process and a count.
pub fn own_address() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id().to_be_bytes();
    format!("127.{}.{}.{}", 64 | process[2] & 63, process[3], COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Daemon {
    /// A connection to its socket.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir().join("unix.socket")).expect("the daemon listens");
        stream.set_read_timeout(Some(patience())).expect("a socket takes a timeout");
        stream
    }

    /// Sends a request and reads the answer until the daemon closes the connection.
    #[track_caller]
    pub fn http(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: berth\r\n");
        if !headers.iter().any(|(name, _)| *name == "Connection") {
            head += "Connection: close\r\n";
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let mut stream = self.connect();
        // The daemon may refuse it and close before it has read all.
        let _ = stream.write_all((head + "\r\n").as_bytes()).and_then(|()| stream.write_all(body));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{method} {path} is answered by: {answer}"));
        Reply { status, head: head.to_owned(), body: body.to_owned() }
    }
}
